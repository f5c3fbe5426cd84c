"""Early stopping is MAP: gradient descent on a linear task, and the prior that each number of steps stands for.

    python recipes/map/recipe.py           # seconds; writes figure.svg

On the left, two weights of a linear regression (the contours are the loss): steps of gradient descent from the shared
start, and the MAP estimates under the priors that follow from the number of steps, one on top of the other. On the
right, how wide those priors are along the direction that the data know best and along the one they know least.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import nn

from quickstudy.core import Batch, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import MAML
from quickstudy.methods.gradient.early_stopping import implied_precision, map_estimate

FOLDER = Path(__file__).parent
STEPS, RATE, N, TASKS = (1, 2, 4, 8, 16, 32, 64), 0.08, 10, 200


def main() -> None:
    """Measure over tasks, draw one."""
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = normal(TASKS, N, 2) * torch.tensor([1.6, 0.5])
    w, theta = torch.tensor([[1.2], [1.5]]) + 0.2 * normal(TASKS, 2, 1), torch.tensor([[-0.6], [0.0]]).double()
    y = x @ w + 0.3 * normal(TASKS, N, 1)
    hessian = 2 / N * x.mT @ x
    fine = torch.linalg.eigvalsh(hessian)[:, -1] * RATE < 1
    x, y, hessian = x[fine], y[fine], hessian[fine]
    net = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(theta.mT)
    eye = torch.eye(2, dtype=torch.float64).expand(len(x), 2, 2)
    descent, modes, far = [], [], 0.0
    for steps in STEPS:
        method = MAML(Problem((2,), "regression", 1), net, inner_lr=RATE, steps=steps)
        with torch.no_grad():
            descent.append(method.adapt(Batch(x, y))(eye))
        modes.append(map_estimate(x, y, theta, implied_precision(hessian, steps, RATE)))
        far = max(far, float((descent[-1] - modes[-1]).abs().max()))
    print(f"gradient descent and MAP are at most {far:.1e} apart, {len(x)} tasks x {len(STEPS)} numbers of steps")
    draw(x[0], y[0], theta, torch.stack([d[0] for d in descent]), torch.stack([m[0] for m in modes]), hessian[0])
    minutes = (time.perf_counter() - begin) / 60
    record(FOLDER, [
        Row("hierarchical-bayes", "gradient descent of 1 to 64 steps against the MAP estimate under the implied prior",
            "largest difference", far, None, None, len(x), 0, 1e-12, "lower", "computed: closed form, float64", "cpu",
            round(minutes, 2), "python recipes/map/recipe.py"),
    ])  # fmt: skip


def draw(x, y, theta, path, modes, hessian) -> None:  # type: ignore[no-untyped-def]
    """One task."""
    figure = Figure((8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    a, b = torch.linspace(-1, 1.9, 80).double(), torch.linspace(-0.4, 2.0, 80).double()
    grid = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1)
    loss = (grid @ x.mT - y.squeeze(-1)).square().mean(-1)
    left.contour(a, b, loss.log(), levels=12, linestyles="solid", colors="0.85", linewidths=0.8)
    every = torch.cat([theta[None], path]).squeeze(-1)
    left.plot(*every.mT, color="#3b6ea5", marker="o", markersize=4, linewidth=1.2, label="gradient descent")
    left.plot(*modes.squeeze(-1).mT, color="#c4572e", marker="o", markersize=9, linestyle="", markerfacecolor="none",
              label="MAP under the implied prior")  # fmt: skip
    left.annotate(r"$\theta$", every[0], xytext=(-12, -4), textcoords="offset points")
    for steps, point in zip(STEPS, every[1:], strict=True):
        if steps <= 8 or steps == STEPS[-1]:
            left.annotate(str(steps), point, xytext=(4, -12), textcoords="offset points", fontsize=8)
    left.set(xlabel=r"$\phi_1$", ylabel=r"$\phi_2$", title="one task, by number of steps")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    w, q = torch.linalg.eigh(hessian)
    width = torch.stack([
        (q.mT @ torch.linalg.inv(implied_precision(hessian, s, RATE)) @ q).diagonal().sqrt() for s in STEPS
    ])  # fmt: skip
    for j, (colour, name) in enumerate((("#c4572e", "the data know least"), ("#3b6ea5", "the data know best"))):
        right.loglog(STEPS, width[:, j], color=colour, marker="o", markersize=4, label=f"{name}: curvature {w[j]:.2g}")
    right.set(xlabel="steps of gradient descent", ylabel="prior's standard deviation", title="the implied prior widens")
    right.set_xticks(STEPS, [str(s) for s in STEPS])
    right.minorticks_off()
    right.set_ylim(0.2, 300)
    right.legend(frameon=False, fontsize=8, title="along what", title_fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "map", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
