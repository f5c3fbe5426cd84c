"""Domain randomisation on cart-pole: fixed ranges, adaptive ones, memory; tested in another simulator.

    python recipes/domain-randomisation/recipe.py      # 30 training runs, a minute or two each on one core

Training varies the pole's length and mass, in a simulator without friction, by Euler's steps of 20 ms. The test is
another simulator: friction of the cart and of the hinge, four steps of 5 ms. ``inside``: length and mass within a
factor of 2 of the usual, as the fixed ranges have it; ``outside``: the length 2 to 8 times, shorter or longer, the mass
as it comes. The score is the length of an episode, at most 200, as a share; 400 test physics, drawn once.

- ``one physics``: trained on the usual pole only;
- ``fixed``: length and mass within a factor of 2 from the start;
- ``wide``: within a factor of 8 from the start, what adaptive ranges may reach at most;
- ``adaptive``: from the usual pole on, ends move by 16 % where the policy stands for 150 of 200 steps (automatic domain
  randomisation). It is not told how far.

All have the same number of steps. PPO sees the cart and the pole and remembers nothing; RL2 also has a GRU's memory. A
trial of 200 steps earns 200 however often the pole falls, so RL2 must credit what an episode earns (``credit``): with
a trial's credit, the paper's, it stood for 11 of 200 steps. The memory is a loss here: who sees position and speed of
cart and pole copes without knowing the physics, as PPO does. RL2 is judged as it acts, by drawing its actions.

Missed: with the memory and adaptive ranges, outside, .89 [.81, .97] where .9 was aimed at, .105 [.02, .19] behind no
memory. Of the first three seeds two come to .96 and .93, one to .79: its ranges had grown as far as the others', and it
still falls with the shortest poles (.77 to .85) and with the longest (.67 to .76). Why was not tested.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from quickstudy.core import Environment, Policy
from quickstudy.curricula import AdaptiveRanges, Taught
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO, RL2
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.classic import CartPole
from quickstudy.tasks.randomisation import RandomPhysics
from quickstudy.training import collect, first_returns, fit_rl

POLE = CartPole(length=200)
TASKS, TEST, FAR = 32, 400, math.log(8)
NEAR = math.log(2)
RUNS, FOLDER = Path("runs/domain-randomisation"), Path(__file__).parent
COMMAND = "python recipes/domain-randomisation/recipe.py"
STEPS = {"PPO": 100, "RL2": 100}
KINDS = {"PPO": ("one physics", "fixed", "wide", "adaptive"), "RL2": ("fixed", "adaptive")}


@dataclass(frozen=True)
class Rubs(CartPole):
    """A cart-pole with friction and finer steps: the simulator that nobody trained in."""

    cart_friction: float = 0.1  # N s / m
    hinge_friction: float = 0.002  # N m s

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Four steps of 5 ms under one push."""
        gravity, cart, pole, half = tasks.unbind(1)
        x, v, angle, turn, at = state.unbind(1)
        push, mass = 20.0 * action.to(state.dtype) - 10.0, cart + pole
        for _ in range(4):
            cos, sin = angle.cos(), angle.sin()
            drive = (push - self.cart_friction * v + pole * half * turn.square() * sin) / mass
            rub = self.hinge_friction * turn / (pole * half)
            swing = (gravity * sin - cos * drive - rub) / (half * (4 / 3 - pole * cos.square() / mass))
            v = v + 0.005 * (drive - pole * half * swing * cos / mass)
            turn = turn + 0.005 * swing
            x, angle = x + 0.005 * v, angle + 0.005 * turn
        seen = torch.stack([x, v, angle, turn], 1)
        ended = (x.abs() > 2.4) | (angle.abs() > 12 * 2 * math.pi / 360)
        late = (at + 1 >= self.length) & ~ended
        return torch.cat([seen, at.unsqueeze(1) + 1], 1), seen, torch.ones_like(x), ended, late


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def family(kind: str) -> Any:
    """Where training tasks come from; quantities are gravity, cart, pole, half its length."""
    reach = {"one physics": 0.0, "fixed": NEAR, "wide": FAR}
    if kind == "adaptive":
        usual = POLE.sample(1, generator(0))[0]
        return Taught(POLE, AdaptiveRanges(usual, (2, 3), (80.0, 150.0), delta=0.15, needed=8, most=FAR))
    u = reach[kind]
    return RandomPhysics(POLE, (0.0, 0.0, -u, -u), (0.0, 0.0, u, u))


def physics(where: str, n: int, chance: torch.Generator) -> Tensor:
    """Test poles inside the fixed ranges or outside of them."""
    mass, length = (2 * torch.rand(2, n, generator=chance) - 1) * NEAR
    if where == "outside":
        far = NEAR + (FAR - NEAR) * torch.rand(n, generator=chance)
        length = far * length.sign()
    one = torch.ones(n)
    return torch.stack([9.8 * one, one, 0.1 * mass.exp(), 0.5 * length.exp()], 1)


def share(policy: Policy, env: Environment, tasks: Tensor, seed: int) -> float:
    """Mean length of the first episodes, as a share of the longest."""
    return float(first_returns(collect(env, policy, tasks, generator(seed))).mean()) / POLE.length


def judged(method: PPO | RL2) -> Policy:
    return best_of(method) if isinstance(method, PPO) else method.explorer()


def train(name: str, kind: str, seed: int) -> dict[str, Any]:
    """One run: its test scores, its ranges at the end, its minutes. Finished runs are kept."""
    notes = RUNS / f"{name}-{kind.replace(' ', '-')}-{seed}.json"
    if notes.is_file():
        return json.loads(notes.read_text())
    begin, env = time.perf_counter(), family(kind)
    method: PPO | RL2
    if name == "PPO":
        method = PPO(POLE.problem, discount=0.99, gae=0.95, generator=generator(seed))
    else:
        method = RL2(POLE.problem, discount=0.99, gae=0.95, credit="episode", generator=generator(seed))
    ranges: list[list[float]] = []

    def progress(done: int, steps: int) -> None:
        if isinstance(env, Taught):
            ranges.append([*env.curriculum.low[2:], *env.curriculum.high[2:]])

    passes, lr = (10, 3e-3) if name == "PPO" else (5, 5e-3)
    fit_rl(
        method, env, steps=STEPS[name], tasks=TASKS, passes=passes, lr=lr, every=STEPS[name],
        generator=generator(100 + seed), progress=progress,
    )  # fmt: skip
    chance, found = generator(500), {}
    for where in ("inside", "outside"):
        found[where] = share(judged(method), Rubs(length=POLE.length), physics(where, TEST, chance), 501)
    lengths = torch.linspace(-FAR, FAR, 17)
    curve = [[9.8, 1.0, 0.1, 0.5 * math.exp(u)] for u in lengths.tolist()]
    tasks = torch.tensor(curve).repeat_interleave(12, 0)
    with torch.no_grad():
        each = first_returns(collect(Rubs(length=POLE.length), judged(method), tasks, generator(502)))
    result = {
        "found": found, "curve": (each.view(17, 12).mean(1) / POLE.length).tolist(), "ranges": ranges,
        "minutes": (time.perf_counter() - begin) / 60,
    }  # fmt: skip
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(result))
    print(f"{name}, {kind}, seed {seed}: {found}, {result['minutes']:.1f} min", flush=True)
    return result


def draw(results: dict[tuple[str, str], list[dict[str, Any]]]) -> Figure:
    """Score by the pole's length; the ranges as they grew."""
    figure = Figure(figsize=(7.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.6, 1)})
    factor = np.exp(np.linspace(-FAR, FAR, 17))
    colours = {"one physics": "0.5", "fixed": "#D55E00", "wide": "#009E73", "adaptive": "#0072B2"}
    for (name, kind), runs in results.items():
        curves = np.array([run["curve"] for run in runs])
        style = "-" if name == "PPO" else "--"
        label = kind if name == "PPO" else f"{kind}, with memory"
        left.plot(factor, curves.mean(0), style, color=colours[kind], label=label, lw=1.8)
    left.axvspan(0.5, 2, color="0.93", lw=0, zorder=0)
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set(xlabel="length of the pole, times the usual", ylabel="share of the longest episode", ylim=(0, 1.03))
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    left.set_title("In the other simulator", fontsize=10)
    for run in results["PPO", "adaptive"]:
        low_mass, low_length, high_mass, high_length = np.exp(np.array(run["ranges"])).T
        right.plot(low_length, color="#0072B2", lw=1)
        right.plot(high_length, color="#0072B2", lw=1)
        right.plot(low_mass, color="#CC79A7", lw=0.8, ls=":")
        right.plot(high_mass, color="#CC79A7", lw=0.8, ls=":")
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set(xlabel="training step", ylabel="times the usual")
    right.set_title("Adaptive ranges (dotted: mass)", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--memory-seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = {"PPO": options.seeds, "RL2": options.memory_seeds}
    results = {(m, k): [train(m, k, seed) for seed in range(seeds[m])] for m, kinds in KINDS.items() for k in kinds}
    chance = generator(500)
    for where in ("inside", "outside"):
        tasks = physics(where, TEST, chance)
        print(
            f"{where}: an oracle that knows the physics {share(POLE.oracle(tasks), Rubs(length=200), tasks, 501):.3f}"
        )
    rows = []
    score = lambda m, k, where: [run["found"][where] for run in results[m, k]]  # noqa: E731
    minutes = lambda *keys: sum(run["minutes"] for key in keys for run in results[key])  # noqa: E731

    def claim(what: str, values: list[float], target: float, source: str, took: float) -> None:
        over = between_seeds(values, TEST, -1.0, 1.0)
        print(f"{what}: {over}")
        rows.append(
            Row(
                "domain-randomisation", f"cart-pole in another simulator: {what}", "share of the longest episode",
                over.mean, over.low, over.high, n=TEST, seeds=over.seeds, target=target, better="higher",
                source=source, tier="cpu", minutes=took, command=COMMAND,
            )
        )  # fmt: skip

    for m, words in (("PPO", "no memory"), ("RL2", "a GRU's memory")):
        claim(
            f"fixed ranges, inside them, {words}",
            score(m, "fixed", "inside"),
            0.9,
            "this recipe's own bar",
            minutes((m, "fixed")),
        )
        for where in ("inside", "outside"):
            claim(
                f"adaptive ranges, {where} the fixed ones, {words}", score(m, "adaptive", where), 0.9,
                "this recipe's own bar", minutes((m, "adaptive")),
            )  # fmt: skip
        gain = [a - b for a, b in zip(score(m, "adaptive", "outside"), score(m, "fixed", "outside"), strict=True)]
        claim(
            f"adaptive minus fixed ranges, outside, {words}",
            gain,
            0.0,
            "computed",
            minutes((m, "fixed"), (m, "adaptive")),
        )
    gain = [
        a - b for a, b in zip(score("RL2", "adaptive", "outside"), score("PPO", "adaptive", "outside"), strict=False)
    ]
    claim("a GRU's memory minus none, adaptive ranges, outside", gain, 0.0, "computed", minutes(("RL2", "adaptive")))
    gain = [
        a - b for a, b in zip(score("PPO", "fixed", "outside"), score("PPO", "one physics", "outside"), strict=True)
    ]
    claim("fixed ranges minus one physics, outside, no memory", gain, 0.0, "computed", minutes(("PPO", "one physics")))
    gain = [a - b for a, b in zip(score("PPO", "adaptive", "outside"), score("PPO", "wide", "outside"), strict=True)]
    claim(
        "adaptive ranges minus ranges as wide from the start, outside, no memory",
        gain,
        0.0,
        "computed",
        minutes(("PPO", "wide")),
    )
    with rc_context({"svg.hashsalt": "domain-randomisation", "svg.fonttype": "none"}):
        draw(results).savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, rows)


if __name__ == "__main__":
    main()
