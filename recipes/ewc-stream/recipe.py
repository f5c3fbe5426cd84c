"""Elastic weight consolidation on five orders of the digits' pixels: between forgetting and never having to wait.

    python recipes/ewc-stream/recipe.py            # 5 seeds, about 5 minutes on one core

One net (two hidden layers of 256), one head for all tasks, 500 steps of 64 examples a task. Plain: one task after
another. EWC: the same, with the penalty; its strength is chosen on validation examples of another seed's stream.
Joint: the same number of steps on all tasks at once. Score: mean accuracy on the test examples of all five tasks.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from scipy.stats import t as student
from sklearn.datasets import load_digits
from torch import Tensor

from quickstudy.core import Method
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import EWC, Pooled
from quickstudy.nets import MLP
from quickstudy.tasks.streams import Stream, permuted
from quickstudy.training import fit, fit_stream, task_scores

TASKS, STEPS, LR, SEEDS = 5, 500, 1e-3, 5
STRENGTHS = (30.0, 100.0, 300.0, 1000.0)
CHOOSING = 100  # the seed whose stream the strength is chosen on


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stream(seed: int) -> Stream:
    """Five orders of the 64 pixels; orders and split are the seed's."""
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    return Stream(permuted(x, y, TASKS, generator(seed)), generator(1000 + seed))


def net(tasks: Stream, seed: int) -> Pooled:
    return Pooled(tasks.problem, MLP((64, 256, 256, 10), generator(2000 + seed)))


def in_turn(method: Method, tasks: Stream, seed: int) -> tuple[float, float, list[float]]:
    """Average accuracy, backward transfer and share of the penalty after learning the tasks in turn."""
    found = fit_stream(method, tasks, steps=STEPS, lr=LR, generator=generator(3000 + seed))
    return found.average, found.backward_transfer, found.penalty_share.tolist()


def at_once(tasks: Stream, seed: int) -> float:
    method = net(tasks, seed)
    fit(method, tasks.together, steps=TASKS * STEPS, tasks=1, lr=LR, generator=generator(3000 + seed))
    return float(task_scores(method, tasks.test(TASKS)).mean())


def choose() -> float:
    """The strength that is best on validation examples."""
    tasks, best = stream(CHOOSING), {}
    for strength in STRENGTHS:
        method = EWC(net(tasks, CHOOSING), strength=strength)
        in_turn(method, tasks, CHOOSING)
        best[strength] = float(task_scores(method, tasks.validation(TASKS)).mean())
        print(f"strength {strength:g}: validation {best[strength]:.3f}")
    return max(best, key=lambda strength: best[strength])


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean over seeds with its 95 % Student interval."""
    x = Tensor(values)
    half = float(x.std() / len(x) ** 0.5 * student.ppf(0.975, len(x) - 1))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def main() -> None:
    """Choose the strength, run all seeds, record."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    strength = choose()
    plain, ewc, joint, change, held = [], [], [], [], []
    for seed in range(SEEDS):
        tasks = stream(seed)
        average, backward, _ = in_turn(net(tasks, seed), tasks, seed)
        plain.append(average)
        change.append(backward)
        average, backward, share = in_turn(EWC(net(tasks, seed), strength=strength), tasks, seed)
        ewc.append(average)
        held.append(backward)
        joint.append(at_once(tasks, seed))
        print(f"seed {seed}: plain {plain[-1]:.3f} ({change[-1]:+.3f})  ewc {ewc[-1]:.3f} ({held[-1]:+.3f})  "
              f"joint {joint[-1]:.3f}  penalty's share of the loss {share[-1]:.2f}")  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60

    def row(what: str, metric: str, values: list[float], target: float, source: str, better: str = "higher") -> Row:
        value, low, high = interval(values)
        print(f"{what}: {value:.3f} [{low:.3f}, {high:.3f}]")
        return Row(
            "ewc", what, metric, value, low, high, n=TASKS, seeds=SEEDS, target=target, better=better,  # type: ignore[arg-type]
            source=source, tier="cpu", minutes=minutes, command="python recipes/ewc-stream/recipe.py",
        )  # fmt: skip

    where = "permuted digits, 5 tasks"
    gain = [a - b for a, b in zip(ewc, plain, strict=True)]
    record(
        Path(__file__).parent,
        [
            row(f"{where}: EWC, strength {strength:g}", "accuracy", ewc, interval(plain)[2],
                "computed: upper end of plain training's interval"),
            row(f"{where}: EWC minus plain training, paired", "accuracy", gain, 0.0, "computed"),
            row(f"{where}: plain training in turn, the floor", "accuracy", plain, interval(ewc)[1],
                "computed: lower end of EWC's interval", "lower"),
            row(f"{where}: joint training, the ceiling", "accuracy", joint, interval(ewc)[2],
                "computed: upper end of EWC's interval"),
            row(f"{where}: EWC, backward transfer", "accuracy", held, interval(change)[2],
                "computed: upper end of plain training's interval"),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
