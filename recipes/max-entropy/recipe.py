"""What maximum entropy is good for: Pendulum, a maze with two passages, and learning something new.

    python recipes/max-entropy/recipe.py             # Pendulum: 5 training runs, two minutes each on one core
    python recipes/max-entropy/recipe.py passages    # 10 training runs of seconds
    python recipes/max-entropy/recipe.py pretrain    # 10 training runs of seconds, 60 short ones after them

Pendulum by SAC: at least -200 after 20,000 steps. The return is the mean of 100 episodes of 200 steps, doing the
middle of what the policy might do; the same start states for all seeds. What a plan that knows the physics reaches
there (value iteration on a grid) is printed beside it. A killed recipe goes on where it was: runs are saved in
``runs/max-entropy``.

Passages: two ways of equal length lead through a wall to the goal. Soft Q-learning keeps both, Q-learning takes one.
Then the way that a policy takes more often is blocked: who knows both still arrives by the other, and learns the rest.

Pretrain: four corridors lead out of a middle. Before, any step outwards is rewarded, which there are four equal ways
to earn; then only the end of one corridor is, and all go on learning by what they are. Measured is the share of that
reward over all of the learning, mean over the four ends. Haarnoja et al. 2017, section 5.2, have a four-legged robot
run and then put it into hallways; the middle and its corridors stand for them.

Five seeds were too few to tell soft from hard: .32 [-.10, .74] after 4800 steps with the passage blocked, .017 [-.005,
.038] in the corridors. With 20 and 15 (``--seeds``) both leads are certain: .34 [.20, .48] and .014 [.008, .021].
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from quickstudy.core import Policy, Problem
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DQN, SAC, SoftQ
from quickstudy.methods.rl._policies import best_of
from quickstudy.tasks.acting import Rule, at_random
from quickstudy.tasks.classic import Pendulum
from quickstudy.tasks.grids import TWO_PASSAGES, Maze, geometry
from quickstudy.training import collect, first_episode, fit_off_policy

TASKS, STEPS, TEST = 2, 10_000, 100
PENDULUM = Pendulum()
RUNS, FOLDER = Path("runs/max-entropy"), Path(__file__).parent


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def returns(policy: Policy, seed: int, n: int) -> float:
    """Mean return of n episodes."""
    return float(collect(PENDULUM, policy, PENDULUM.sample(n, generator(0)), generator(seed)).reward.sum(1).mean())


def oracle() -> Rule:
    """A plan that knows the physics, which are the same in all episodes: one plan serves them all."""
    tasks = PENDULUM.sample(TEST, generator(0))
    plan = PENDULUM.plan(tasks[:1])
    plan.tasks, plan.value = tasks, plan.value.expand(TEST, -1)
    return Rule(lambda seen, chance: plan.act(torch.atan2(seen[:, 1], seen[:, 0]), seen[:, 2]))


def train(seed: int) -> tuple[SAC, list[tuple[int, float]], float]:
    """A run, its curve (environment steps, return of 20 episodes of its own), and its minutes."""
    method = SAC(PENDULUM.problem, width=64, discount=0.98, rate=0.01, generator=generator(seed))
    notes = RUNS / f"{seed}.json"
    known = json.loads(notes.read_text()) if notes.is_file() else {"curve": [], "minutes": 0.0}
    curve, before, begin = dict(known["curve"]), known["minutes"], time.perf_counter()

    def progress(done: int, steps: int) -> None:
        if done % 500 == 0:
            curve[done * TASKS] = returns(best_of(method), 9000 + seed, 20)
            minutes = before + (time.perf_counter() - begin) / 60
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(json.dumps({"curve": sorted(curve.items()), "minutes": minutes}))
            print(f"seed {seed}: {done * TASKS} steps, return {curve[done * TASKS]:.0f}", flush=True)

    fit_off_policy(
        method, PENDULUM, steps=STEPS, tasks=TASKS, memory=20_000, batch=128, warmup=1000, lr=2e-3, every=500,
        generator=generator(100 + seed), checkpoint=RUNS / f"{seed}.safetensors", resume=True, progress=progress,
    )  # fmt: skip
    return method, sorted(curve.items()), json.loads(notes.read_text())["minutes"]


def pendulum(seeds: int) -> None:
    """Train, test, record, draw."""
    runs = [train(seed) for seed in range(seeds)]
    found = [returns(best_of(method), 500, TEST) for method, _, _ in runs]
    over = between_seeds(found, TEST)
    best, floor = returns(oracle(), 500, TEST), returns(at_random(PENDULUM.problem), 500, TEST)
    print(f"SAC: {over} of {[round(x, 1) for x in found]}")
    print(f"a plan that knows the physics: {best:.1f}; at random: {floor:.1f}")
    row = Row(
        "max-entropy", f"Pendulum, {STEPS * TASKS} steps: SAC (a plan that knows the physics: {best:.0f})", "return",
        over.mean, over.low, over.high, n=TEST, seeds=seeds, target=-200.0, better="higher", source="issue target",
        tier="cpu", minutes=sum(minutes for _, _, minutes in runs), command="python recipes/max-entropy/recipe.py",
    )  # fmt: skip
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    curves, x = np.array([[y for _, y in curve] for _, curve, _ in runs]), [at for at, _ in runs[0][1]]
    axes.plot(x, curves.mean(0), label="SAC")
    axes.fill_between(x, curves.min(0), curves.max(0), alpha=0.2)
    axes.axhline(best, color="0.4", linestyle="--", label="a plan that knows the physics")
    axes.set(xlabel="environment steps", ylabel="return of an episode")
    axes.set_title(f"Pendulum; mean and range of {seeds} seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "max-entropy", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "figure.svg", metadata={"Date": None})
    record(FOLDER, [row])


PASSAGES = Maze(TWO_PASSAGES, start=(3, 0), goals_at=((3, 6),), length=60, shows_goal=False)
GAPS = ((1, 3), (5, 3))  # the cells of the wall that are open
RELEARN = 600  # steps of learning after one is blocked, in 8 mazes side by side


@dataclass(frozen=True)
class Changed:
    """The same maze, with a wall in one of its cells, or where a step away from the start is all that is rewarded.

    What is seen of the cells is as it was.
    """

    maze: Maze
    wall: int = -1
    outwards: bool = False

    @property
    def problem(self) -> Problem:
        return self.maze.problem

    @property
    def horizon(self) -> int:
        return self.maze.horizon

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        return self.maze.sample(n, generator)

    def reset(self, tasks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return self.maze.reset(tasks, generator)

    def step(
        self, state: torch.Tensor, action: torch.Tensor, tasks: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        world = geometry(self.maze.layout, tasks.device)
        action = action.where(world.after[state[:, 0], action] != self.wall, 0)  # 0 stays
        new, seen, reward, ended, cut = self.maze.step(state, action, tasks, generator)
        if self.outwards:
            assert self.maze.start is not None
            far = world.distance[self.maze.index(self.maze.start)]
            reward = (far[new[:, 0]] - far[state[:, 0]]).to(reward)
        return new, seen, reward, ended, cut


def learner(soft: bool, problem: Problem, seed: int) -> SoftQ | DQN:
    if soft:
        return SoftQ(problem, width=64, discount=0.95, temperature=0.3, rate=0.02, generator=generator(seed))
    return DQN(problem, width=64, discount=0.95, explore=0.1, rate=0.02, generator=generator(seed))


def acting(method: SoftQ | DQN) -> Policy:
    """What each means to do: the soft policy draws, the hard one takes the best."""
    return method.explorer() if isinstance(method, SoftQ) else best_of(method)


def arrive(world: Maze | Changed, method: SoftQ | DQN, n: int, seed: int) -> float:
    """In which share of n episodes the goal was reached."""
    trials = collect(world, acting(method), world.sample(n, generator(0)), generator(seed))
    return float((trials.ends()[0].sum(1) > 0).float().mean())


def passages(seeds: int) -> None:
    """Which passages are taken, and who arrives where the one that is liked more is blocked: at once, and in time."""
    names, gaps = ("soft Q-learning", "Q-learning"), [PASSAGES.index(cell) for cell in GAPS]
    before, rarer, at_once, curves = ({name: [] for name in names} for _ in range(4))
    minutes = {}
    for name in names:
        begin = time.perf_counter()
        for seed in range(seeds):
            method = learner(name == names[0], PASSAGES.problem, seed)
            fit_off_policy(
                method, PASSAGES, steps=2000, tasks=8, memory=16_000, batch=128, warmup=1000, lr=2e-3, every=2000,
                generator=generator(100 + seed),
            )  # fmt: skip
            trials = collect(PASSAGES, acting(method), PASSAGES.sample(TEST, generator(0)), generator(500))
            first = first_episode(trials.done)
            through = [float(((trials.observation[..., gap] > 0) & first).any(1).float().mean()) for gap in gaps]
            before[name].append(float((trials.ends()[0].sum(1) > 0).float().mean()))
            rarer[name].append(min(through))
            world = Changed(PASSAGES, wall=gaps[int(np.argmax(through))])
            at_once[name].append(arrive(world, method, TEST, 600))
            curve = [at_once[name][-1]]

            def progress(done: int, steps: int, curve: list[float] = curve) -> None:
                if done % 30 == 0:
                    curve.append(arrive(world, method, TEST, 600 + done))  # noqa: B023

            fit_off_policy(
                method, world, steps=RELEARN, tasks=8, memory=16_000, batch=128, warmup=0, lr=1e-3, every=RELEARN,
                generator=generator(200 + seed), progress=progress,
            )  # fmt: skip
            curves[name].append(curve)
            print(f"{name}, seed {seed}: arrive {before[name][-1]:.2f}, through {np.round(through, 2)}, "
                  f"blocked {np.round(curve[::3], 2)}", flush=True)  # fmt: skip
        minutes[name] = (time.perf_counter() - begin) / 60
    rows = []
    for name, often, there in zip(names, (0.2, 0.02), (0.4, 0.05), strict=True):
        soft = name == names[0]
        what = f"two passages, both open: {name}"
        rows.append(claim(what, "arrive", before[name], 0.95, True, TEST, minutes[name], "passages", "computed: 1"))
        what = f"two passages, the one taken less: {name}"
        rows.append(claim(what, "share of episodes", rarer[name], often, soft, TEST, minutes[name], "passages"))
        what = f"two passages, the one taken more is blocked, nothing learned since: {name}"
        source = "computed: the exact soft policy has 0.50" if soft else "issue target"
        rows.append(claim(what, "arrive", at_once[name], there, soft, TEST, minutes[name], "passages", source))
    gain = [float(np.mean(a) - np.mean(b)) for a, b in zip(*(curves[name] for name in names), strict=True)]
    what = f"two passages, the one taken more is blocked, {8 * RELEARN} steps of learning: soft less hard"
    rows.append(claim(what, "arrive, mean over the steps", gain, 0.0, True, TEST, sum(minutes.values()), "passages"))
    lines(curves, 240, "environment steps since a passage was blocked", "share that arrives", "passages")
    record(FOLDER, rows)


LENGTH, SPREAD = 10, 21  # cells of a corridor, and of the whole
ENDS = ((0, LENGTH), (LENGTH, 0), (LENGTH, SPREAD - 1), (SPREAD - 1, LENGTH))
CROSS = tuple(
    "".join("." if LENGTH in (row, column) else "#" for column in range(SPREAD)) for row in range(SPREAD)
)  # fmt: skip
HALLWAYS = Maze(CROSS, start=(LENGTH, LENGTH), goals_at=ENDS, length=25, elsewhere=0.0, at_goal=1.0, ends=False,
                shows_goal=False)  # fmt: skip
TUNING = 500  # steps of fine-tuning, in 4 corridors side by side


def tuned(method: SoftQ | DQN, end: tuple[int, int], seed: int) -> list[float]:
    """The share of the best return, again and again while it learns to go to one end."""
    world, best = replace(HALLWAYS, goals_at=(end,)), float(HALLWAYS.length - LENGTH + 1)

    def share(done: int) -> float:
        trials = collect(world, acting(method), world.sample(20, generator(0)), generator(done))
        return float(trials.reward.sum(1).mean()) / best

    curve = [share(0)]

    def progress(done: int, steps: int) -> None:
        if done % 25 == 0:
            curve.append(share(done))

    fit_off_policy(
        method, world, steps=TUNING, tasks=4, memory=4 * TUNING, batch=64, warmup=0, lr=1e-3, every=TUNING,
        generator=generator(seed), progress=progress,
    )  # fmt: skip
    return curve


def pretrain(seeds: int) -> None:
    """Learn to go anywhere, then to one end."""
    kinds = {"soft before": (True, True), "hard before": (False, True), "soft, nothing before": (True, False),
             "hard, nothing before": (False, False)}  # fmt: skip
    curves: dict[str, list[list[float]]] = {}
    minutes: dict[str, float] = {}
    for kind, (soft, before) in kinds.items():
        begin = time.perf_counter()
        for seed in range(seeds):
            method = learner(soft, HALLWAYS.problem, seed)
            if before:
                fit_off_policy(
                    method, Changed(HALLWAYS, outwards=True), steps=2000, tasks=8, memory=16_000, batch=64, warmup=1000,
                    lr=2e-3, every=2000, generator=generator(100 + seed),
                )  # fmt: skip
            known = {name: value.clone() for name, value in method.state_dict().items()}
            runs = []
            for number, end in enumerate(ENDS):
                method.load_state_dict(known)
                runs.append(tuned(method, end, 200 + 10 * seed + number))
            curves.setdefault(kind, []).append(np.mean(runs, 0).tolist())
            print(f"{kind}, seed {seed}: {np.mean(runs):.3f} {np.round(curves[kind][-1][::4], 2)}", flush=True)
        minutes[kind] = (time.perf_counter() - begin) / 60
    areas = {kind: [float(np.mean(curve)) for curve in each] for kind, each in curves.items()}
    rows = []
    for other in ("hard before", "soft, nothing before"):
        gain = [a - b for a, b in zip(areas["soft before"], areas[other], strict=True)]
        what = f"one of four corridors, share of the best return over {4 * TUNING} steps: soft before less {other}"
        spent = minutes["soft before"] + minutes[other]
        rows.append(claim(what, "difference", gain, 0.0, True, len(ENDS), spent, "pretrain"))
    lines(curves, 100, "environment steps since the end was named", "share of the best return", "pretrain")
    record(FOLDER, rows)


def lines(curves: dict[str, list[list[float]]], step: int, x: str, y: str, name: str) -> None:
    """Draw mean and range over seeds."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, each in curves.items():
        at = step * np.arange(len(each[0]))
        axes.plot(at, np.mean(each, 0), label=kind)
        axes.fill_between(at, np.min(each, 0), np.max(each, 0), alpha=0.2)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(f"Mean and range of {len(each)} seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def claim(
    what: str,
    metric: str,
    values: list[float],
    target: float,
    higher: bool,
    n: int,
    minutes: float,
    part: str,
    source: str = "issue target",
) -> Row:
    over = between_seeds(values, n)
    print(f"{what}: {over}", flush=True)
    return Row(
        "max-entropy", what, metric, over.mean, over.low, over.high, n=n, seeds=len(values), target=target,
        better="higher" if higher else "lower", source=source, tier="cpu", minutes=minutes,
        command=f"python recipes/max-entropy/recipe.py {part}",
    )  # fmt: skip


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=PARTS, default="pendulum")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    PARTS[chosen.part](chosen.seeds)


PARTS = {"pendulum": pendulum, "passages": passages, "pretrain": pretrain}


if __name__ == "__main__":
    main()
