"""RL2 on Bernoulli bandits, 5 arms and 10 pulls: beside the classical ways to play and the exact optimum.

    python recipes/rl2-bandits/recipe.py           # 3 training runs, under 10 minutes each on one core

Every policy plays the same 100,000 test bandits, which no training run has seen: with 10,000 a figure may be 0.04 off
by chance, which is more than the best policies differ. UCB1's width is chosen on other bandits, as in the paper. A
killed recipe goes on where it was: runs are saved in ``runs/rl2-bandits``.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.core import Policy
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import RL2
from quickstudy.tasks.bandits import UCB1, BernoulliBandits, Gittins, Greedy, RandomArm, Thompson, optimal_reward
from quickstudy.training import collect, fit_rl

ARMS, PULLS, STEPS, SEEDS, TEST = 5, 10, 400, 3, 100_000
BANDITS = BernoulliBandits(ARMS, PULLS)
RUNS = Path("runs/rl2-bandits")
PAPER = "Duan et al. 2016, arXiv:1611.02779, table 1, n = 10, k = 5"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def play(policy: Policy, bandits: int = 12, chance: int = 1012) -> Tensor:
    """Total reward in each test bandit. Shape: ``[TEST]``."""
    return collect(BANDITS, policy, BANDITS.sample(TEST, generator(bandits)), generator(chance)).reward.sum(1)


def train(seed: int) -> RL2:
    method = RL2(BANDITS.problem, discount=1.0, generator=generator(seed))
    fit_rl(
        method, BANDITS, steps=STEPS, tasks=1024, every=20, generator=generator(100 + seed),
        checkpoint=RUNS / f"{seed}.safetensors", resume=True,
        progress=lambda done, steps: print(f"\r{done}/{steps}", end="", flush=True) if done % 10 == 0 else None,
    )  # fmt: skip
    return method


def main() -> None:
    """Train, let every policy play, record."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    learned = []
    for seed in range(SEEDS):
        learned.append(play(train(seed).explorer(), chance=2000 + seed))
        print(
            f"\nseed {seed}: {float(learned[-1].mean()):.3f}, {(time.perf_counter() - begin) / 60:.1f} minutes so far"
        )
    minutes = (time.perf_counter() - begin) / 60
    width = max((0.05, 0.1, 0.2, 0.3, 0.5, 1.0), key=lambda c: float(play(UCB1(ARMS, c), bandits=13).mean()))
    rest: list[tuple[str, Policy, float]] = [
        ("Gittins index (finite horizon)", Gittins(ARMS, PULLS), 6.6),
        (f"UCB1 (c = {width:g})", UCB1(ARMS, width), 6.7),
        ("greedy", Greedy(ARMS), 6.6),
        ("Thompson sampling", Thompson(ARMS), 5.7),
        ("random", RandomArm(ARMS), 5.0),
    ]

    def row(what: str, metric: str, x: Tensor, target: float, source: str, seeds: int, took: float) -> Row:
        mean, half = float(x.mean()), float(1.96 * x.std() / len(x) ** 0.5)
        print(f"{what}: {mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]")
        return Row(
            "rl2", what, metric, mean, mean - half, mean + half, n=TEST, seeds=seeds, target=target, better="higher",
            source=source, tier="cpu", minutes=took, command="python recipes/rl2-bandits/recipe.py",
        )  # fmt: skip

    where, reward = f"bandits, {ARMS} arms, {PULLS} pulls", torch.stack(learned).mean(0)
    best = optimal_reward(ARMS, PULLS)
    print(f"exact optimum {best:.4f}; paper: RL2 6.7, Gittins 6.6, UCB1 6.7, greedy 6.6, Thompson 5.7, random 5.0")
    rows = [
        row(f"{where}: RL2", "total reward", reward, 6.6, "issue target; the paper reports 6.7", SEEDS, minutes),
        row(f"{where}: RL2, share of the optimum {best:.3f}", "ratio", reward / best, 0.99,
            "computed: exact Bayes-optimal value by dynamic programming", SEEDS, minutes),
    ]  # fmt: skip
    for name, policy, published in rest:
        # published figures are rounded to 0.1 and the mean of 1,000 bandits: the paper's own 95 % interval is +-0.14
        rows.append(
            row(
                f"{where}: {name}",
                "total reward",
                play(policy),
                published - 0.14,
                f"{PAPER}: {published}, less 0.14 of noise",
                0,
                0.0,
            )
        )
    record(Path(__file__).parent, rows)


if __name__ == "__main__":
    main()
