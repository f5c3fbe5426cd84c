"""Tasks unlike those of training: Omniglot characters sheared and scaled, for methods that read and one that descends.

    QUICKSTUDY_DATA=... python recipes/ood/recipe.py [METHOD ...] [--seeds 3] [--steps 3000] [--threads 2]

Each method is trained on 5-way 1-shot episodes of upright characters and tested on new characters, all images of an
episode warped alike, by shear and by size, as in Finn and Levine 2018 (arXiv:1710.11622, section 6, whose strengths of
warping are not these). Every method meets the same test episodes. Scores of every task are kept in
``runs/ood/METHOD-SEED.json``; a run that was stopped goes on from its checkpoint, a finished one is read. Methods that
this version does not have are left out and named.

Claimed is what is left of a method's upright accuracy above chance, not the accuracy itself. MAML's net normalises by
the statistics of the images at hand (support, then query), at test too, which is adaptation of its own kind.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from quickstudy.core import Batch, Episodes, Method, Problem, QuickstudyError
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods.registry import build, find
from quickstudy.nets import net_for
from quickstudy.tasks.classes import ClassEpisodes
from quickstudy.tasks.load import load
from quickstudy.tasks.study import SplitClasses
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER, RUNS = Path(__file__).parent, Path("runs/ood")
RATES = {"maml": 3e-3, "snail": 1e-3, "meta-networks": 3e-3}  # the first two chosen on validation classes, upright
SHEARS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)  # tangent of the angle
SCALES = (0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5)
FAR = ("shear", 1.0), ("scale", 0.55)  # what is claimed
COLOURS = ("#3b6ea5", "#c4572e", "#5a8f3c", "#8a5fa8", "0.4")
CHANCE = 0.2


def warped(x: Tensor, shear: float = 0.0, scale: float = 1.0) -> Tensor:
    """Images sheared sideways and drawn larger or smaller about their middle, ink 1 on 0. Shape: ``[..., 1, h, w]``."""
    flat = x.flatten(0, -4)
    # the grid says where each pixel is read from, hence the inverse
    inverse = torch.tensor([[1.0, shear, 0.0], [0.0, 1.0, 0.0]]) / scale
    grid = F.affine_grid(inverse.expand(len(flat), 2, 3), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False).view_as(x)


def unlike(episodes: Episodes, what: str, strength: float) -> Episodes:
    """The same episodes with every image warped alike."""
    turn = lambda b: Batch(warped(b.x, **{what: strength}), b.y, b.weight)  # noqa: E731
    return replace(episodes, support=turn(episodes.support), query=turn(episodes.query))


def make(name: str, problem: Problem, seed: int) -> Method:
    """The method as it does well on Omniglot."""
    if name == "maml":
        net = net_for(problem, "batch", torch.Generator().manual_seed(seed), width=32)
        return build(find(name), problem, seed, net=net, inner_lr=0.4, test_steps=3)
    return build(find(name), problem, seed)


def run(name: str, seed: int, data: SplitClasses, steps: int, n: int) -> dict[str, Any]:
    """One training run and all tests, or what an earlier one found."""
    out = RUNS / f"{name}-{seed}.json"
    if out.is_file():
        found = dict(json.loads(out.read_text()))
        if found["steps"] == steps and found["episodes"] == n:
            return found
        raise SystemExit(f"{out} is of {found['steps']} steps and {found['episodes']} episodes. Move it away.")
    family = lambda part, queries, known=False: ClassEpisodes(  # noqa: E731
        data.classes, data.splits[part], queries=queries, known=known
    )
    train = family("train", 5, known=True)
    method = make(name, train.problem, seed)
    begin = time.process_time()
    history = fit(
        method, train, steps=steps, tasks=4, lr=RATES[name], every=max(1, steps // 10),
        validation=family("val", 5).sample(min(n, 200), torch.Generator().manual_seed(1)),
        generator=torch.Generator().manual_seed(seed), checkpoint=RUNS / f"{name}-{seed}.safetensors", resume=True,
        progress=lambda done, of: print(f"\r{name} {done}/{of}", end="", flush=True),
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60
    test = family("test", 5).sample(n, torch.Generator().manual_seed(2))
    scores = {
        what: {str(s): task_scores(method, unlike(test, what, s)).tolist() for s in strengths}
        for what, strengths in (("shear", SHEARS), ("scale", SCALES))
    }
    print(f"\r{name} seed {seed}: {minutes:.1f} minutes of the processor's; validation {max(history.score):.3f}")
    found = {"scores": scores, "steps": steps, "episodes": n, "cpu": minutes, "validation": history.score}
    write_json(out, found)
    return found


def main() -> None:
    """Train what is not there yet, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="record nothing and draw into runs/ood")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = []
    for name in given.methods:
        try:
            find(name)
        except QuickstudyError:
            print(f"{name}: left out, this version has no method of that name")
        else:
            names.append(name)
    data = load("omniglot").meet
    assert isinstance(data, SplitClasses)
    seeds = range(given.seeds)
    found = {name: [run(name, seed, data, given.steps, given.episodes) for seed in seeds] for name in names}
    of = {
        name: {what: np.array([list(r["scores"][what].values()) for r in runs]) for what in ("shear", "scale")}
        for name, runs in found.items()
    }  # [seeds, strengths, tasks]
    for name, each in of.items():
        for what, strengths in (("shear", SHEARS), ("scale", SCALES)):
            shown = ", ".join(f"{s:g}: {v:.3f}" for s, v in zip(strengths, each[what].mean((0, 2)), strict=True))
            print(f"{name} {what} {shown}")
    draw(of, RUNS / "figure.svg" if given.dry else FOLDER / "figure.svg")
    if not given.dry and "maml" in of:
        minutes = {name: max(float(r["cpu"]) for r in runs) / 2 for name, runs in found.items()}
        record(FOLDER, [row for name in names if name != "maml" for row in _rows(name, of, given.seeds, minutes[name])])


def left(of: dict[str, np.ndarray], what: str, strength: float) -> np.ndarray:
    """What of the upright accuracy above chance is left in each task. Shape: ``[seeds, tasks]``."""
    strengths = SHEARS if what == "shear" else SCALES
    upright = of[what][:, strengths.index(0.0 if what == "shear" else 1.0)].mean() - CHANCE
    return (of[what][:, strengths.index(strength)] - CHANCE) / upright


def _rows(name: str, of: dict[str, dict[str, np.ndarray]], seeds: int, minutes: float) -> list[Row]:
    """MAML against another method, task by task."""
    rows = []
    for what, strength in FAR:
        gap = left(of["maml"], what, strength) - left(of[name], what, strength)
        ours = estimate(gap, np.ones(gap.shape[1]), np.random.default_rng(0))
        rows.append(
            Row("ood-study", f"Omniglot 5-way 1-shot, {what} {strength:g}: what is left of the upright accuracy above "
                f"chance, MAML's less that of {name}", "share", ours.mean, ours.low, ours.high, gap.shape[1], seeds,
                0.0, "higher", "Finn, Levine 2018, section 6 (a figure without numbers): MAML loses least", "cpu",
                round(minutes, 1), "python recipes/ood/recipe.py")
        )  # fmt: skip
    return rows


def draw(of: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Accuracy by strength, one panel a kind of warping."""
    figure = Figure((8.0, 3.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"shear": ("sheared", "shear (tangent)"), "scale": ("scaled", "size, 1 is that of training")}
    for axes, (what, strengths) in zip(panels, (("shear", SHEARS), ("scale", SCALES)), strict=True):
        for colour, (name, each) in zip(COLOURS, of.items(), strict=False):
            seeds = each[what].mean(2)
            axes.plot(strengths, seeds.mean(0), color=colour, linewidth=1.3, label=name)
            axes.plot(np.tile(strengths, len(seeds)), seeds.flatten(), color=colour, linestyle="", marker="o",
                      markersize=2.5)  # fmt: skip
        axes.axhline(CHANCE, color="0.7", linewidth=0.8, linestyle=":")
        axes.set(title=titles[what][0], xlabel=titles[what][1])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, new characters, 5-way 1-shot")
    panels[0].annotate("chance", (SHEARS[0], CHANCE), (0, 3), textcoords="offset points", fontsize=8, color="0.5")
    panels[0].legend(frameon=False, fontsize=8)
    with rc_context({"svg.hashsalt": "ood", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
