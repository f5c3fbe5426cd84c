"""A learned update rule against the best fixed one, on the two families of quadratics that it is trained on.

    python recipes/lstm-optimizer/recipe.py        # about 10 minutes on one core

``f(theta) = |W theta - y|^2 / n`` from theta = 0, a new W and y in each task. Dense: W [10, 10] and y standard normal,
20 steps (Andrychowicz et al. 2016, section 3.1, with fewer steps). Scaled: W diagonal, each of 6 curvatures between
0.2 and 20, 8 steps, so that one rate for all parameters cannot suit. The rates of gradient descent and Adam, and when
to stop training, are chosen on 500 tasks; scores are the final values of f on 2000 others.

What was found: the learned rule is ahead of gradient descent on both families, and of Adam where curvatures differ by
parameter. On dense quadratics it does not differ from Adam with its best rate (ratio 1.02 [.98, 1.06], which is not
met). Supposed, not looked into: W turns the axes of each task at random, and a rule that sees one parameter's own
gradients, as Adam's and this one do, cannot learn a direction from that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import MAML, LSTMOptimizer
from quickstudy.methods._inner import settle
from quickstudy.methods._nets import spread, task_loss, trainable
from quickstudy.training import fit

TEST = 2000  # tasks
COMMAND = "python recipes/lstm-optimizer/recipe.py"
RATES = [0.01 * 1.25**k for k in range(20)]  # 0.01 to 0.7
ADAM_RATES = [0.02 * 1.4**k for k in range(14)]  # 0.02 to 1.6


@dataclass(frozen=True)
class Quadratics:
    """Tasks whose support and query are the same rows of W: what is learned is to optimise."""

    kind: str
    size: int

    @property
    def problem(self) -> Problem:
        return Problem((self.size,), "regression", 1, metric="explained variance")

    def sample(self, n: int, generator: torch.Generator) -> Episodes:
        d = self.size
        y = torch.randn(n, d, 1, generator=generator)
        if self.kind == "dense":
            x = torch.randn(n, d, d, generator=generator)
        else:  # second derivatives 2 W_jj^2 / d = 2 * 10^(-1 .. 1)
            x = torch.diag_embed(10 ** (torch.rand(n, d, generator=generator) - 0.5)) * d**0.5
            y = y * d**0.5
        batch = Batch(x, y)
        return Episodes(batch, batch)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def paired(ours: Tensor, theirs: Tensor) -> tuple[float, float, float]:
    """Mean of ours / mean of theirs with its 95 % interval, by resampling tasks."""
    draws = torch.randint(len(ours), (2000, len(ours)), generator=generator(0))
    ratios = (ours[draws].mean(1) / theirs[draws].mean(1)).sort().values
    return float(ours.mean() / theirs.mean()), float(ratios[50]), float(ratios[1949])


def compare(kind: str, size: int, steps: int, lr: float, updates: int) -> list[Row]:
    """Train on the family, choose the rates, record."""
    begin = time.perf_counter()
    family = Quadratics(kind, size)
    # not the tasks (seed 2) that a shorter run on the dense family was seen to fail on, 1.02 times Adam
    chosen_on, test = family.sample(500, generator(1)), family.sample(TEST, generator(4242))
    net = nn.Linear(size, 1, bias=False)
    nn.init.zeros_(net.weight)
    loss = task_loss(net, family.problem)

    def descent(rate: float, episodes: Episodes) -> Tensor:
        return MAML(family.problem, net, inner_lr=rate, steps=steps).losses(episodes).detach()

    def adam(rate: float, episodes: Episodes) -> Tensor:
        start = spread(trainable(net), episodes.n_tasks)
        phi = settle(loss, start, episodes.support, steps, rate)  # type: ignore[arg-type]
        return family.problem.losses(episodes.query.x @ phi["weight"].mT, episodes.query)

    best = {}
    for name, rule, rates in (("gradient descent", descent, RATES), ("Adam", adam, ADAM_RATES)):
        values = [float(rule(rate, chosen_on).mean().nan_to_num(torch.inf)) for rate in rates]
        rate = rates[values.index(min(values))]
        best[name] = rate, rule(rate, test)
    method = LSTMOptimizer(family.problem, net, steps=steps, learn_start=False, inner_lr=best["gradient descent"][0])
    fit(method, family, steps=updates, tasks=16, lr=lr, every=50, validation=chosen_on, generator=generator(3))
    ours = method.losses(test).detach()
    minutes = (time.perf_counter() - begin) / 60
    rows, where = [], f"{kind} quadratics of {size} numbers, {steps} steps"
    print(f"{where}: learned {float(ours.mean()):.4f}, {minutes:.1f} minutes")
    for name, (rate, theirs) in best.items():
        value, low, high = paired(ours, theirs)
        print(
            f"  {name}, rate {rate:.3f}: {float(theirs.mean()):.4f}; learned / it {value:.3f} [{low:.3f}, {high:.3f}]"
        )
        rows.append(
            Row(
                "lstm-optimizer",
                f"{where}: final value, learned / {name} with its best rate",
                "ratio",
                value,
                low,
                high,
                TEST,
                1,
                1.0,
                "lower",
                "computed",
                "cpu",
                round(minutes, 1),
                COMMAND,
            )  # fmt: skip
        )
    return rows


def main() -> None:
    """Both families."""
    torch.set_num_threads(1)
    record(Path(__file__).parent, [*compare("scaled", 6, 8, 2e-2, 1000), *compare("dense", 10, 20, 1e-2, 2500)])


if __name__ == "__main__":
    main()
