"""Cart-pole to at least 475 of 500: by policy gradients, and by DQN.

    python recipes/policy-gradient/recipe.py           # 25 training runs, half a minute to two each on one core

The figure is the mean length of 200 episodes, doing what looks best; the same start states for all seeds. Training
episodes that fall are followed by others within a trial. The plain actor-critic takes one step on its trials, so
its value lags and is not trusted: its advantages are whole returns (gae = 1; at .95 two of three tried runs unlearned
what they could). With a value net that gave V itself in place of (1 - gamma) V, PPO came to 378 [239, 500] and the
actor-critic to 161 [74, 249]: a value of 100 took the net longer to reach than the policy to settle.

DQN takes an optimiser step for every step of a pole. With one for four it came to 150 to 330 of 500, whatever rate of
the target (.002 to .1), step size, scale of rewards or bounds of values was tried (one seed each). Four seeds of five
end at 500; the fifth stood for 500 after 33,600 steps and had lost some of it again when training was over, so that the
mean just misses 475: nothing here keeps the best net.

A killed recipe goes on where it was: runs are saved in ``runs/policy-gradient``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from quickstudy.core import Policy
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DQN, PPO, TRPO, ActorCritic, Reinforce
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.classic import CartPole
from quickstudy.training import collect, first_returns, fit_off_policy, fit_rl

POLE = CartPole()
TASKS, TEST = 8, 200
RUNS, FOLDER = Path("runs/policy-gradient"), Path(__file__).parent


Learner = PPO | ActorCritic | TRPO | Reinforce | DQN


@dataclass(frozen=True)
class Kind:
    """A method and how it is trained.

    Args:
        system: which claim it is part of.
        method: from a seed.
        steps: of the loop.
        each: environment steps of one of these.
        lr: first step size.
        passes: optimiser steps on the same trials, or for a step of all poles.
    """

    system: str
    method: Callable[[torch.Generator], Learner]
    steps: int
    each: int
    lr: float
    passes: int


TRIALS = TASKS * POLE.horizon
KINDS = {
    "PPO": Kind("policy-gradient", lambda g: PPO(POLE.problem, gae=0.95, generator=g), 60, TRIALS, 3e-3, 10),
    "actor-critic": Kind(
        "policy-gradient", lambda g: ActorCritic(POLE.problem, gae=1.0, generator=g), 150, TRIALS, 5e-3, 1
    ),
    "REINFORCE": Kind("policy-gradient", lambda g: Reinforce(POLE.problem, generator=g), 150, TRIALS, 5e-3, 1),
    "TRPO": Kind("policy-gradient", lambda g: TRPO(POLE.problem, generator=g), 60, TRIALS, 1e-2, 10),
    "DQN": Kind("value-based", lambda g: DQN(POLE.problem, rate=0.02, generator=g), 12_000, 4, 1e-3, 4),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returns(policy: Policy, seed: int, n: int) -> float:
    """Mean length of n first episodes, which is their return."""
    trials = collect(POLE, policy, POLE.sample(n, generator(0)), generator(seed))
    return float(first_returns(trials).mean())


def train(name: str, seed: int) -> tuple[Learner, list[tuple[int, float]], float]:
    """A run, its curve (environment steps, length of 20 episodes of its own), and its minutes."""
    kind = KINDS[name]
    method = kind.method(generator(seed))
    notes = RUNS / f"{name}-{seed}.json"
    known = json.loads(notes.read_text()) if notes.is_file() else {"curve": [], "minutes": 0.0}
    curve, before, begin = dict(known["curve"]), known["minutes"], time.perf_counter()

    def progress(done: int, steps: int) -> None:
        if done % (steps // 10) == 0:
            at = done * kind.each
            curve[at] = returns(best_of(method), 9000 + seed, 20)
            minutes = before + (time.perf_counter() - begin) / 60
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(json.dumps({"curve": sorted(curve.items()), "minutes": minutes}))
            print(f"{name}, seed {seed}: {at} steps, length {curve[at]:.0f}", flush=True)

    common = {
        "steps": kind.steps, "lr": kind.lr, "every": kind.steps // 10, "generator": generator(100 + seed),
        "checkpoint": RUNS / f"{name}-{seed}.safetensors", "resume": True, "progress": progress,
    }  # fmt: skip
    if isinstance(method, DQN):
        fit_off_policy(method, POLE, tasks=kind.each, batch=128, updates=kind.passes, **common)  # type: ignore[arg-type]
    else:
        fit_rl(method, POLE, tasks=TASKS, passes=kind.passes, **common)  # type: ignore[arg-type]
    return method, sorted(curve.items()), json.loads(notes.read_text())["minutes"]


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = []
    for name in KINDS:
        runs = [train(name, seed) for seed in range(seeds)]
        found = [returns(best_of(method), 500, TEST) for method, _, _ in runs]
        over = between_seeds(found, TEST, low=0.0, high=500.0)
        print(f"{name}: {over} of {[round(x, 1) for x in found]}")
        rows.append(
            Row(
                KINDS[name].system, f"cart-pole: {name}", "length of an episode", over.mean, over.low, over.high,
                n=TEST, seeds=seeds, target=475.0, better="higher", source="issue target; the threshold of CartPole-v1",
                tier="cpu", minutes=sum(minutes for _, _, minutes in runs),
                command="python recipes/policy-gradient/recipe.py",
            )
        )  # fmt: skip
        curves, x = np.array([[y for _, y in curve] for _, curve, _ in runs]), [at / 1000 for at, _ in runs[0][1]]
        axes.plot(x, curves.mean(0), label=name)
        axes.fill_between(x, curves.min(0), curves.max(0), alpha=0.2)
    axes.axhline(475, color="0.4", linestyle="--", label="475")
    axes.set(xscale="log", xlabel="thousand environment steps", ylabel="length of an episode", ylim=(0, 510))
    axes.set_title(f"Cart-pole; mean and range of {seeds} seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "policy-gradient", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
