"""A metric on pictures that was learned by planning leads to goals; pixels and a VAE's latents do not.

    python recipes/planning-metric/recipe.py           # 5 seeds, less than a minute each on one core

The world is a point in a room of 4 x 4, a step moves each coordinate by at most 0.25. It is seen as a picture of
16 x 16: a dot for the point, and a larger and paler one that lies somewhere else in every picture and that nothing
moves. The data are 512 trials of 50 steps at random (each action is held for 5 steps, with noise on it), without
rewards or goals. On them a planning network, whose plans take 5 steps, and a VAE are trained with equally large
encoders and latents, on equally many pictures; neither is told where the point is.

Each distance then serves as the only sign of what is good: in 200 tasks, the point tries 16 directions in its mind
(the true world, 3 steps ahead, pictured), goes one step in the one whose picture is nearest to the goal's, and begins
anew; reached is within 0.3 after at most 40 steps. So what is compared is the metric, not a method that learns from it.
The other figure is Spearman's correlation between a metric and the true distance over 2,000 pairs of pictures. The
places of tasks and pairs are drawn from other generators than the data.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn

from quickstudy.combine import mean
from quickstudy.core import Trajectory
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods.rl.planning_metric import PlanningMetric
from quickstudy.tasks.acting import uniform
from quickstudy.tasks.grids import open_grid
from quickstudy.tasks.point import PointMaze
from quickstudy.training._loop import Descent

SIDE, ROOM, HORIZON, LATENT, BATCH, STEPS = 16, 4, 5, 4, 64, 2500
WORLD = PointMaze(open_grid(ROOM, ROOM), start=None, length=50, within=1e-6)
TASKS, PAIRS, WITHIN = 200, 2000, 0.3
RUNS, FOLDER = Path("runs/planning-metric"), Path(__file__).parent
Distance = Callable[[Tensor, Tensor], Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(place: Tensor, chance: torch.Generator) -> Tensor:
    """A dot at each place, a larger and paler one anywhere. Shape: ``[..., 2]`` to ``[..., SIDE * SIDE]``."""
    other = uniform(0, ROOM, tuple(place.shape), chance)
    pixel = (torch.arange(SIDE) + 0.5) * ROOM / SIDE

    def dot(at: Tensor, width: float) -> Tensor:
        along, across = (torch.exp(-(((pixel - at[..., i : i + 1]) / width) ** 2) / 2) for i in (1, 0))
        return along.unsqueeze(-1) * across.unsqueeze(-2)

    return torch.maximum(dot(place, 0.4), 0.7 * dot(other, 0.5)).flatten(-2)


def moved(place: Tensor, action: Tensor) -> Tensor:
    """Where a step leads, by the world's own rule. Shape: ``[n, 2]`` both."""
    state = torch.cat([place, torch.zeros_like(place[:, :1])], 1)
    return WORLD.step(state, action, torch.full_like(place, -9.0), generator(0))[0][:, :2]


def interaction(seed: int) -> Trajectory:
    """512 trials of 50 steps at random, seen in pictures; nothing ends."""
    chance, n = generator(seed), 512
    place, seen, done = uniform(0, ROOM, (n, 2), chance), [], []
    seen.append(pictures(place, chance))
    for step in range(50):
        if step % HORIZON == 0:
            held = uniform(-1, 1, (n, 2), chance)
        action = (held + 0.3 * torch.randn(n, 2, generator=chance)).clamp(-1, 1)
        place = moved(place, action)
        seen.append(pictures(place, chance))
        done.append(action)
    every, zero = torch.stack(seen, 1), torch.zeros(n, 50)
    return Trajectory(every[:, :-1], torch.stack(done, 1), zero, zero, zero, zero, every[:, 1:])


def windows(data: Trajectory, chance: torch.Generator) -> Trajectory:
    """Stretches of HORIZON steps. Shape: ``[BATCH, HORIZON, ...]``."""
    row = torch.randint(len(data.reward), (BATCH, 1), generator=chance)
    time = torch.randint(51 - HORIZON, (BATCH, 1), generator=chance) + torch.arange(HORIZON)
    return Trajectory(**{name: part[row, time] for name, part in vars(data).items() if part is not None})


def by_planning(data: Trajectory, seed: int) -> Distance:
    """A planning network's distance."""
    metric = PlanningMetric(SIDE * SIDE, 2, latent=LATENT, updates=4, generator=generator(seed))
    chance = generator(100 + seed)
    descent = Descent(metric, steps=STEPS, lr=3e-3, weight_decay=0.0, generator=chance, checkpoint=None)
    total = 0.0
    for step in range(STEPS):
        batch = windows(data, chance)
        noise = torch.randn(BATCH, HORIZON, metric.size, generator=chance)
        total += descent.step(step, metric.losses(batch, noise), mean)
        if (step + 1) % 250 == 0:
            print(f"planning, seed {seed}: {step + 1}/{STEPS}, loss {total / 250:.3f}", flush=True)
            total = 0.0
    return metric.distance


class VAE(nn.Module):
    """Bernoulli pixels, normal latents; the encoder is as large as the planning network's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        made = PlanningMetric(SIDE * SIDE, 2, latent=2 * LATENT, generator=generator(seed))
        back = PlanningMetric(LATENT, 2, latent=SIDE * SIDE, generator=generator(1000 + seed))
        self.encoder, self.decoder = made.encoder, back.encoder

    def losses(self, x: Tensor, noise: Tensor) -> Tensor:
        """Minus the evidence lower bound. Shape: ``[n]``."""
        middle, log_deviation = self.encoder(x).chunk(2, -1)
        found = self.decoder(middle + log_deviation.exp() * noise)
        divergence = 0.5 * (middle.square() + (2 * log_deviation).exp() - 1 - 2 * log_deviation).sum(-1)
        return F.binary_cross_entropy_with_logits(found, x, reduction="none").sum(-1) + divergence

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Between the means of latents."""
        return (self.encoder(one).chunk(2, -1)[0] - self.encoder(other).chunk(2, -1)[0]).norm(dim=-1)


def by_vae(data: Trajectory, seed: int) -> Distance:
    """A VAE's distance, from as many pictures: those at both ends of as many windows."""
    vae, chance = VAE(seed), generator(200 + seed)
    descent = Descent(vae, steps=STEPS, lr=3e-3, weight_decay=0.0, generator=chance, checkpoint=None)
    for step in range(STEPS):
        batch = windows(data, chance)
        x = torch.cat([batch.observation[:, 0], batch.ends()[1][:, -1]])
        loss = descent.step(step, vae.losses(x, torch.randn(len(x), LATENT, generator=chance)), mean)
    print(f"VAE, seed {seed}: last loss {loss:.1f}", flush=True)
    return vae.distance


@torch.no_grad()
def reached(distance: Distance, seed: int) -> float:
    """The share of tasks whose goal is reached by who follows the distance."""
    chance = generator(seed)
    place, goal = (uniform(0, ROOM, (TASKS, 2), chance) for _ in range(2))
    wanted, there = pictures(goal, chance), torch.zeros(TASKS, dtype=torch.bool)
    angle = 2 * math.pi * torch.arange(16) / 16
    ways = torch.stack([angle.cos(), angle.sin()], 1)
    for _ in range(40):
        ahead, action = place.repeat_interleave(16, 0), ways.repeat(TASKS, 1)
        for _ in range(3):
            ahead = moved(ahead, action)
        far = distance(pictures(ahead, chance), wanted.repeat_interleave(16, 0)).view(TASKS, 16)
        place = moved(place, ways[far.argmin(1)])
        there |= (place - goal).norm(dim=1) <= WITHIN
    return float(there.float().mean())


@torch.no_grad()
def correlation(distance: Distance, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Spearman's with the true distance, and the pairs' distances, true and by the metric."""
    chance = generator(seed)
    one, other = (uniform(0, ROOM, (PAIRS, 2), chance) for _ in range(2))
    true, found = (one - other).norm(dim=1), distance(pictures(one, chance), pictures(other, chance))
    return float(spearmanr(true.numpy(), found.numpy()).statistic), true.numpy(), found.numpy()


def run(seed: int, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """Success and correlation by each metric."""
    notes = RUNS / f"{seed}.json"
    if notes.is_file():
        return dict(json.loads(notes.read_text()))
    begin, data = time.perf_counter(), interaction(1000 + seed)
    metrics: dict[str, Distance] = {
        "planning": by_planning(data, seed),
        "VAE": by_vae(data, seed),
        "pixels": lambda one, other: (one - other).norm(dim=-1),
    }
    found = {}
    for name, distance in metrics.items():
        strength, true, far = correlation(distance, 70_000 + seed)
        found[name] = {"success": reached(distance, 80_000 + seed), "correlation": strength}
        print(f"seed {seed}, {name}: {found[name]}", flush=True)
        if seed == 0:
            found[name] |= {"true": true[:500].tolist(), "far": far[:500].tolist()}
    found["minutes"] = {"all": (time.perf_counter() - begin) / 60}
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(found))
    return found


def main() -> None:
    """Train, test, record, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    runs, rows = [run(seed) for seed in range(seeds)], []
    minutes = sum(found["minutes"]["all"] for found in runs)
    for score, words, n, lowest in (
        ("success", "share of goals reached by who follows it", TASKS, 0.0),
        ("correlation", "Spearman's correlation with the true distance", PAIRS, -1.0),
    ):
        for name in ("VAE", "pixels"):
            gain = [found["planning"][score] - found[name][score] for found in runs]
            over = between_seeds(gain, n)
            values = {which: float(np.mean([found[which][score] for found in runs])) for which in ("planning", name)}
            print(f"{score}: {values}, difference {over}")
            rows.append(
                Row(
                    "planning-metric", f"pictures of a point: planning metric minus distance of {name}, {words}",
                    "difference", over.mean, over.low, over.high, n=n, seeds=seeds, target=0.0, better="higher",
                    source="computed: beats it", tier="cpu", minutes=minutes,
                    command="python recipes/planning-metric/recipe.py",
                )
            )  # fmt: skip
        over = between_seeds([found["planning"][score] for found in runs], n, lowest, 1.0)
        rows.append(
            Row(
                "planning-metric", f"pictures of a point: planning metric, {words}", score, over.mean, over.low,
                over.high, n=n, seeds=seeds,
                target=max(float(np.mean([found[k][score] for found in runs])) for k in ("VAE", "pixels")),
                better="higher", source="computed: the better of VAE and pixels", tier="cpu", minutes=minutes,
                command="python recipes/planning-metric/recipe.py",
            )
        )  # fmt: skip
    draw(runs[0])
    record(FOLDER, rows)


def draw(found: dict[str, dict[str, float]]) -> None:
    """What each metric says of pairs at a true distance."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("planning", "VAE", "pixels"), strict=True):
        axes.plot(found[name]["true"], found[name]["far"], ".", markersize=2)
        axes.set(xlabel="true distance", ylabel="distance by metric", ylim=(0, None))
        axes.set_title(f"{name}: {found[name]['success']:.2f} of goals reached", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "planning-metric", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
