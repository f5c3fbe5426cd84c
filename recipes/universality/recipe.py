"""One gradient step can stand for any learner: a net built by hand computes random rules.

    python recipes/universality/recipe.py           # a minute on one core; writes figure.svg

Finn and Levine 2018 (arXiv:1710.11622) show that one step from a deep enough net can compute any function of the
support and the input. Here the net of ``tests/conformance/universal.py`` is built for rules on two labels y_1, y_2 in
-1..1: its one step writes both labels into biases and shuts the path that the loss was computed on; behind that, sums
of ReLUs compute the rule, so that the only error is that of straight pieces. Rules are drawn at random: quadratic forms
in (x, y_1, y_2), whose products no regression of y on x makes. Beside it, the best that gradient descent on a linear
model can do, on whatever features: its prediction is affine in the labels after any number of steps, and of such rules
(cubic in x) the best is found by least squares.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn

from quickstudy.core import Batch, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import MAML

FOLDER = Path(__file__).parent
RULES, SUPPORTS, QUERIES = 40, 50, 16
PIECES = (4, 8, 16, 32, 64, 128)
AWAY, SHUT = 10.0, 1000.0  # more than any label, and more than anything that goes through a gate
PROBLEM = Problem((1,), "regression", 1)


class OneStepRule(nn.Module):
    """``[n, 1]`` to ``[n, 1]``; one step of rate 1 on the mean squared error makes it ``v' Q v``, v = (x, y_1, y_2, 1).

    Any quadratic form is a sum of squares of linear forms, with signs: Q = sum_j s_j a_j a_j'.
    """

    a: Tensor
    signs: Tensor
    knots: Tensor

    def __init__(self, form: Tensor, pieces: int) -> None:
        super().__init__()
        self.z, self.s = nn.Parameter(torch.zeros(2, dtype=form.dtype)), nn.Parameter(torch.zeros(1, dtype=form.dtype))
        w, q = torch.linalg.eigh(form)
        self.register_buffer("a", q)  # columns; |a_j' v| <= |v| <= 2
        self.register_buffer("signs", w)
        self.register_buffer("knots", torch.linspace(-2, 2, pieces + 1, dtype=form.dtype)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        place = torch.cat([1 - x, 1 + x], -1) / 2  # the i-th is 1 at the i-th support input, 0 at the other
        before = AWAY - 1 + F.relu(1 + self.z - SHUT * (1 - place)).sum(-1, keepdim=True) + self.s
        # at x_i the output is AWAY with slope 1 in z_i and in s: a step moves z_i by y_i - AWAY, and s past -2
        y = (self.z + AWAY).expand(len(x), 2)
        v = torch.cat([x, y, torch.ones_like(x)], -1)
        after = self.square(v @ self.a) @ self.signs.unsqueeze(-1)
        is_open = 1 - F.relu(1 - F.relu(2 + self.s))  # 1 and flat at s = 0; 0 from s = -2 on
        return gate(before, is_open) + gate(after, 1 - is_open)

    def square(self, u: Tensor) -> Tensor:
        """The square of numbers in -2..2, straight between the knots: one layer of ReLUs."""
        step = 4 / len(self.knots)
        bend = torch.full_like(self.knots, 2 * step)
        bend[0] = -4 + step  # the first piece's slope
        return 4 + (F.relu(u.unsqueeze(-1) - self.knots) * bend).sum(-1)


def gate(value: Tensor, is_open: Tensor) -> Tensor:
    """``value`` where the gate is 1, zero where it is 0."""
    shut = SHUT * (1 - is_open)
    return F.relu(value - shut) - F.relu(-value - shut)


def draw_rules() -> tuple[list[Tensor], Tensor, Tensor]:
    """Quadratic forms, labels ``[SUPPORTS, 2, 1]`` and queries ``[SUPPORTS, QUERIES, 1]``, uniform in -1..1."""
    generator = torch.Generator().manual_seed(0)
    uniform = lambda *shape: 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1  # noqa: E731
    forms = [uniform(4, 4) for _ in range(RULES)]
    return [(m + m.T) / 2 for m in forms], uniform(SUPPORTS, 2, 1), uniform(SUPPORTS, QUERIES, 1)


def unexplained(found: Tensor, wanted: Tensor) -> float:
    """Mean squared error over the rule's variance."""
    return float((found - wanted).square().mean() / wanted.var())


def main() -> None:
    """Measure all rules, record, draw one."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    forms, y, q = draw_rules()
    x = torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64).expand(SUPPORTS, 2, 1)
    v = torch.cat([q, y.mT.expand(-1, QUERIES, 2), torch.ones_like(q)], -1)
    by_pieces, affine, largest, shown = np.zeros((len(PIECES), RULES)), np.zeros(RULES), 0.0, None
    for r, form in enumerate(forms):
        wanted = torch.einsum("tmi,ij,tmj->tm", v, form, v).unsqueeze(-1)
        for p, pieces in enumerate(PIECES):
            method = MAML(PROBLEM, OneStepRule(form, pieces), inner_lr=1.0)
            with torch.no_grad():
                found = method.adapt(Batch(x, y))(q)
            assert isinstance(found, Tensor)
            by_pieces[p, r] = unexplained(found, wanted)
        largest = max(largest, float((found - wanted).abs().max()))
        # affine in the labels, with any functions of x: fitted to the rule on products with powers of x
        features = torch.cat([v[..., 1:].unsqueeze(-1) * q.unsqueeze(-1) ** k for k in torch.arange(4)], -1).flatten(2)
        features, target = features.flatten(0, 1), wanted.flatten(0, 1)
        affine[r] = unexplained(features @ torch.linalg.lstsq(features, target).solution, target)
        shown = (wanted, found) if shown is None else shown
    minutes = round((time.perf_counter() - begin) / 60, 2)
    for pieces, each in zip(PIECES, by_pieces, strict=True):
        print(f"{pieces:4d} pieces: unexplained {each.mean():.2e}")
    rest = estimate(affine[None], np.ones(RULES), np.random.default_rng(0))
    print(f"best rule affine in the labels: {rest.mean:.3f} [{rest.low:.3f}, {rest.high:.3f}]; largest {largest:.1e}")
    where, command = f"{RULES} random quadratic rules in (x, y_1, y_2)", "python recipes/universality/recipe.py"
    deep = estimate(by_pieces[-1][None], np.ones(RULES), np.random.default_rng(0))
    record(FOLDER, [
        Row("universality", f"one gradient step of a net built by hand ({PIECES[-1]} pieces a square) against the rule "
            f"itself: {where}", "unexplained variance", deep.mean, deep.low, deep.high, RULES, 0, 1e-5, "lower",
            "computed: the rule is known", "cpu", minutes, command),
        Row("universality", "the same: largest error of any prediction", "absolute error", largest, None, None,
            RULES * SUPPORTS * QUERIES, 0, 5e-3, "lower", "computed: the rule is known", "cpu", minutes, command),
        Row("universality", "the best that gradient descent on a linear model can do, which is affine in the labels: "
            + where, "unexplained variance", rest.mean, rest.low, rest.high, RULES, 0, 0.1, "higher",
            "computed: least squares on all such rules", "cpu", minutes, command),
    ])  # fmt: skip
    draw(by_pieces, affine, shown)


def draw(by_pieces: np.ndarray, affine: np.ndarray, shown: tuple[Tensor, Tensor] | None) -> None:
    """Left: one rule, predicted against meant. Right: error against the number of pieces."""
    figure = Figure((8.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert shown is not None
    wanted, found = (value.flatten().numpy() for value in shown)
    left.plot(wanted, found, color="#3b6ea5", linestyle="", marker="o", markersize=2)
    left.set(xlabel="the rule", ylabel="the net after its one step", title=f"one rule, {SUPPORTS} random supports")
    for each in by_pieces.T:
        right.loglog(PIECES, each, color="#3b6ea5", linewidth=0.5, alpha=0.4)
    mean = by_pieces.mean(1)
    right.loglog(PIECES, mean, color="#3b6ea5", marker="o", markersize=4, label="one step, by construction")
    right.axhline(affine.mean(), color="#c4572e", linestyle="--", label="best rule that is affine in the labels")
    right.set(xlabel="straight pieces of each square", ylabel="unexplained variance", title=f"{RULES} rules")
    right.set_xticks(PIECES, [str(p) for p in PIECES])
    right.minorticks_off()
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "universality", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
