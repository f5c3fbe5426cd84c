"""Imagined goals: skewed, they come to cover all that can be reached; unskewed, they stay where it is easy.

    python recipes/skew-fit/recipe.py counts        # 15 runs of seconds
    python recipes/skew-fit/recipe.py states        # 15 training runs, a quarter of a minute each on one core

Counts: four rooms of 104 cells, started in a corner. The model of goals is exact (how often each cell was the end of
an episode), and so is the way to a goal; one step in five goes astray, which is how new cells are found. So all that
differs is the power alpha that the weights of the model's fit are raised to.

States: a square room, started in a corner. A VAE imagines places to come to, a policy (PPO) is rewarded by nearness
in the VAE's codes, and the VAE is fitted to the places where episodes end, by their weights; alpha 0 is RIG. Where the
walls are is told to neither; the cells serve to measure.

Entropy is that of the cells where the episodes of the last fifth of a run end, as a share of log N. A killed recipe
goes on where it was: runs on states are saved in ``runs/skew-fit``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from quickstudy.curricula import Counted, Imagined, LatentGoals, SkewFit, Taught
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import PPO
from quickstudy.nets.vae import VAE
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.grids import FOUR_ROOMS, Maze, geometry, open_grid
from quickstudy.tasks.point import PointMaze
from quickstudy.training import collect, fit_rl

ALPHAS = (0.0, -0.5, -1.0)
ROOMS = Maze(FOUR_ROOMS, start=(0, 0), length=40, ends=False)
ROUNDS, EPISODES = 150, 200
SIDE, STEPS, TASKS, PASSES = 5, 100, 64, 8
SQUARE = PointMaze(open_grid(SIDE, SIDE), start=(0, 0), within=1e-6, length=25)
RUNS, FOLDER = Path("runs/skew-fit"), Path(__file__).parent


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy(count: np.ndarray) -> float:
    """Of the cells of some ends, as a share of the largest possible."""
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum() / math.log(len(count)))


def end_of(count: list[list[float]]) -> float:
    """The entropy of the last fifth of a run's rounds."""
    return entropy(np.array(count[-len(count) // 5 :]).sum(0))


def astray(tasks: torch.Tensor) -> Rule:
    """Walks to the goal, but for one step in five."""
    way, anywhere = ROOMS.oracle(tasks), at_random(ROOMS.problem)

    def rule(seen: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        lost = torch.rand(len(seen), generator=chance) < 0.2
        return anywhere.rule(seen, chance).where(lost, way.rule(seen, chance))

    return Rule(rule)


def counted(alpha: float, seed: int) -> list[list[float]]:
    """How often each cell was the end, round by round."""
    chance = generator(seed)
    tasks = ROOMS.sample(EPISODES, chance)
    first = collect(ROOMS, at_random(ROOMS.problem), tasks, chance).ends()[1][:, -1, : ROOMS.n_cells]
    goals = SkewFit(
        Counted(ROOMS.n_cells), lambda last: last[:, : ROOMS.n_cells], first=first, alpha=alpha, every=EPISODES,
        room=4 * EPISODES, generator=chance,
    )  # fmt: skip
    ends = []
    for _ in range(ROUNDS):
        tasks = goals.sample(EPISODES, chance)
        last = collect(ROOMS, astray(tasks), tasks, chance).ends()[1][:, -1]
        goals.met(tasks, torch.zeros(EPISODES), last, chance)
        ends.append(last[:, : ROOMS.n_cells].sum(0).tolist())
    return ends


def centred(place: torch.Tensor) -> torch.Tensor:
    """What is seen at a place: its numbers, from -1 to 1."""
    return 2 * place / SIDE - 1


def place_of(seen: torch.Tensor) -> torch.Tensor:
    """The place that was seen."""
    return (seen + 1) * SIDE / 2


def imagined(alpha: float, seed: int) -> dict[str, Any]:
    """A run with a VAE: its ends by cells, round by round, and some goals at its end."""
    path = RUNS / f"states{alpha}-{seed}.json"
    notes = json.loads(path.read_text()) if path.is_file() else {"ends": [], "goals": [], "minutes": 0.0}
    vae = VAE(2, 2, deviation=0.1, generator=generator(seed))
    room = LatentGoals(SQUARE, vae, nowhere=torch.tensor([-9.0, -9.0]), look=centred)
    first = collect(SQUARE, at_random(SQUARE.problem), SQUARE.sample(64, generator(seed)), generator(seed))
    goals = SkewFit(
        Imagined(vae, updates=30), lambda last: room.goals(last)[0],
        first=room.seen(first.ends()[1][:, 5::6]).flatten(0, 1), alpha=alpha, every=TASKS, room=16 * TASKS,
        generator=generator(50 + seed),
    )  # fmt: skip
    method = PPO(room.problem, discount=0.95, generator=generator(seed))
    method.actor.log_deviation.requires_grad_(False)  # how far it strays is the same for every alpha
    before, begin = notes["minutes"], time.perf_counter()

    def progress(done: int, steps: int) -> None:
        at = (int(goals.n_memory) + torch.arange(-TASKS, 0)) % goals.room  # what this round's episodes ended with
        cell = place_of(goals.memory[at]).floor().clamp(0, SIDE - 1).long()
        count = torch.bincount(cell[:, 1] * SIDE + cell[:, 0], minlength=SIDE**2).tolist()
        notes["ends"] = [*notes["ends"][: done - 1], count]
        if done % 20 == 0:
            notes["goals"] = place_of(goals.sample(300, generator(0))).tolist()
            notes["minutes"] = before + (time.perf_counter() - begin) / 60
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(notes))
            print(f"states, alpha {alpha}, seed {seed}: {done}/{steps}, {end_of(notes['ends']):.3f}", flush=True)

    fit_rl(
        method, Taught(room, goals), steps=STEPS, tasks=TASKS, passes=PASSES, lr=2e-3, every=20,
        generator=generator(100 + seed), checkpoint=path.with_suffix(".safetensors"), resume=True, progress=progress,
    )  # fmt: skip
    return notes


def counts(seeds: int) -> None:
    """Run, measure, record, draw: exact densities."""
    rows, runs = [], {}
    for alpha in ALPHAS:
        begin = time.perf_counter()
        runs[alpha] = [counted(alpha, seed) for seed in range(seeds)]
        minutes = (time.perf_counter() - begin) / 60
        rows.append(row("skew-fit", "four rooms, exact density", ROOMS.n_cells, alpha, runs[alpha], minutes, "counts"))
    cell = geometry(FOUR_ROOMS, torch.device("cpu")).cell
    maps = draw(f"Four rooms, {ROOMS.n_cells} cells, exact density", runs)
    for alpha, place in zip(ALPHAS, maps[1], strict=True):
        grid = np.full((len(FOUR_ROOMS), len(FOUR_ROOMS[0])), np.nan)
        grid[cell[:, 0], cell[:, 1]] = np.array(runs[alpha][0][-ROUNDS // 5 :]).sum(0)
        place.imshow(grid / np.nanmax(grid), cmap="viridis", vmin=0)
        place.set_title(f"ends, alpha {alpha:g}", fontsize=9)
    save(maps[0], "counts")
    record(FOLDER, rows)


def states(seeds: int) -> None:
    """Run, measure, record, draw: goals that a VAE imagines."""
    rows, runs = [], {}
    for alpha in ALPHAS:
        runs[alpha] = [imagined(alpha, seed) for seed in range(seeds)]
        ends, minutes = [run["ends"] for run in runs[alpha]], sum(run["minutes"] for run in runs[alpha])
        rows.append(row("imagined-goals", "a room, VAE and PPO", SIDE**2, alpha, ends, minutes, "states"))
    maps = draw("A room, VAE and PPO", {alpha: [run["ends"] for run in runs[alpha]] for alpha in ALPHAS})
    for alpha, place in zip(ALPHAS, maps[1], strict=True):
        x, y = np.array(runs[alpha][0]["goals"]).T
        place.scatter(x, y, s=4)
        place.set(xlim=(-1, SIDE + 1), ylim=(SIDE + 1, -1), aspect="equal")
        place.add_patch(Rectangle((0, 0), SIDE, SIDE, fill=False, edgecolor="0.6"))
        place.set_title(f"imagined, alpha {alpha:g}", fontsize=9)
    save(maps[0], "states")
    record(FOLDER, rows)


def row(system: str, what: str, n: int, alpha: float, ends: list[Any], minutes: float, part: str) -> Row:
    """One figure; skewed goals should cover what there is, plain ones should not."""
    found = [end_of(run) for run in ends]
    over = between_seeds(found, n, 0.0, 1.0)
    print(f"{what}, alpha {alpha}: {over} of {[round(x, 3) for x in found]}", flush=True)
    return Row(
        system, f"{what}: entropy of where episodes end, alpha {alpha:g}", "share of log N", over.mean, over.low,
        over.high, n=n, seeds=len(found), target=0.95 if alpha else 0.8, better="higher" if alpha else "lower",
        source="issue target" if alpha else "issue target: stays low", tier="cpu", minutes=minutes,
        command=f"python recipes/skew-fit/recipe.py {part}",
    )  # fmt: skip


def draw(title: str, runs: dict[float, list[Any]]) -> tuple[Figure, Any]:
    """Entropy over rounds, and room for a map of each alpha."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(0.8, 1))
    axes = left.subplots()
    for alpha in ALPHAS:
        ends = np.array(runs[alpha])  # [seed, round, cell]
        curve = np.array([[entropy(run[max(t - 10, 0) : t].sum(0)) for t in range(1, len(run) + 1)] for run in ends])
        axes.plot(curve.mean(0), label=f"alpha {alpha:g}")
        axes.fill_between(np.arange(curve.shape[1]), curve.min(0), curve.max(0), alpha=0.2)
    axes.axhline(0.95, color="0.6", linestyle=":")
    axes.set(xlabel="rounds", ylabel="entropy of ends / log N", ylim=(0, 1.02))
    axes.set_title(f"{title}; {len(ends)} seeds", fontsize=9)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    maps = right.subplots(1, len(ALPHAS))
    for place in maps:
        place.set(xticks=[], yticks=[])
    return figure, maps


def save(figure: Figure, name: str) -> None:
    with rc_context({"svg.hashsalt": "skew-fit", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def main() -> None:
    """One part, or both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=("counts", "states"), help="counts, states")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for part in chosen.parts:
        {"counts": counts, "states": states}[part](chosen.seeds)


if __name__ == "__main__":
    main()
