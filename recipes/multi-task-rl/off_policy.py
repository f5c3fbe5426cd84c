"""Ten goals in conflict, learned from a memory: SAC, DQN and soft Q-learning with more and less in common.

    python recipes/multi-task-rl/off_policy.py           # 70 training runs, a quarter to half a minute each on one core
    python recipes/multi-task-rl/off_policy.py sac       # those of one method; the others wait

The goals of `recipe.py`, with rewards 1 to 10 apart; DQN and soft Q-learning choose among 5 x 5 pushes. All kinds get
the same 40,000 steps of the world and the same settings: `one net` sees the task's identity, `embedding` a learned
vector of four numbers in its place, `heads` has a last layer a task, `nothing shared` a whole net a task. `heads,
rewards alike` is the same family with all rewards of one scale, as if each task's were divided by its own. `PCGrad` is
SAC's one net whose gradients give way, in actor, critics and temperature apart. The figure is that of `recipe.py`:
the share of the ten tasks whose goal the robot stands at after the last step.

Values are learned in units of the rewards, and their squared error grows with the square of the scale. So in whatever
tasks have in common the loud ones are heard first, a head of one's own or not; with rewards of one scale heads learn
all, which is why they miss .95 without (SAC .20, DQN .68, soft Q-learning .46). That PCGrad and embeddings gain nothing
is supposed to have the same reason: PCGrad takes conflicts away and leaves sizes as they are; an embedding is what a
first layer makes of the identity anyway. Settings were tried on seed 9. Soft Q-learning has three of the kinds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from quickstudy.combine import PCGrad, mean
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import between_seeds
from quickstudy.methods import DQN, SAC, SoftQ
from quickstudy.methods.rl._policies import Sharing, best_of
from quickstudy.tasks.acting import Discretised
from quickstudy.tasks.identity import SeesIdentity
from quickstudy.tasks.point import ConflictingGoals
from quickstudy.training import collect, fit_off_policy

K, STEPS, ROBOTS, LEVELS, APART = 10, 2000, 20, 5, 10.0
RUNS, FOLDER = Path("runs/multi-task-rl"), Path(__file__).parent
COMMAND = "python recipes/multi-task-rl/off_policy.py"
KINDS: dict[str, Sharing | None] = {
    "one net": None, "embedding": "embedding", "heads": "trunk", "nothing shared": "nothing",
    "heads, rewards alike": "trunk", "PCGrad": None,
}  # fmt: skip
LEFT_OUT = {"sac": (), "dqn": ("PCGrad",), "soft-q": ("embedding", "nothing shared", "PCGrad")}
METHODS: dict[str, type[SAC | DQN | SoftQ]] = {"sac": SAC, "dqn": DQN, "soft-q": SoftQ}


@dataclass(frozen=True)
class Pushes(Discretised):
    """Few pushes to choose from, in tasks that can be listed."""

    environment: ConflictingGoals  # type: ignore[assignment]

    def known(self) -> torch.Tensor:
        return self.environment.known()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(name: str, kind: str, seed: int, seen: SeesIdentity) -> SAC | DQN | SoftQ:
    """A method of this kind."""
    share = KINDS[kind]
    common = {"width": 64, "discount": 0.9, "rate": 0.02, "generator": generator(seed)}
    common |= {} if share is None else {"heads": K, "share": share}
    own = {"sac": {"temperature": 0.1}, "dqn": {"explore": 0.2}, "soft-q": {"temperature": 0.1}}[name]
    return METHODS[name](seen.problem, **common, **own)  # type: ignore[arg-type]


def train(name: str, kind: str, seed: int) -> dict[str, float]:
    """One run: its success and its minutes."""
    notes = RUNS / f"{name}-{kind.replace(' ', '-').replace(',', '')}-{seed}.json"
    if notes.is_file():
        return dict(json.loads(notes.read_text()))
    begin = time.perf_counter()
    goals = ConflictingGoals(tasks=K, scales=1.0 if kind == "heads, rewards alike" else APART)
    seen = SeesIdentity(goals if name == "sac" else Pushes(goals, LEVELS))  # type: ignore[arg-type]
    method, combine = made(name, kind, seed, seen), mean
    if kind == "PCGrad":
        assert isinstance(method, SAC)
        parts = [list(method.actor.parameters()), list(method.critics.parameters()), [method.log_temperature]]
        combine = PCGrad(parts, K, generator(200 + seed))
    fit_off_policy(
        method, seen, steps=STEPS, tasks=ROBOTS, memory=50_000, batch=200, warmup=1000, lr=3e-3, combine=combine,
        generator=generator(100 + seed),
    )  # fmt: skip
    tasks = goals.known()
    trials = collect(seen, best_of(method), tasks, generator(0))
    found = float(goals.success(trials.ends()[1][:, -1, :2], tasks).double().mean())
    result = {"success": found, "minutes": (time.perf_counter() - begin) / 60}
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text(json.dumps(result))
    print(f"{name}, {kind}, seed {seed}: {found:.1f}, {result['minutes']:.2f} min", flush=True)
    return result


def main() -> None:
    """Train, test, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", help="methods to train; others wait")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [(name, kind) for name in options.only or METHODS for kind in KINDS if kind not in LEFT_OUT[name]]
    runs = {key: [train(*key, seed) for seed in range(options.seeds)] for key in wanted}
    rows = []

    def claim(name: str, kind: str, minus: str, target: float, better: str, source: str) -> None:
        values, keys = [run["success"] for run in runs[name, kind]], [(name, kind)]
        if minus:
            values = [round(a - run["success"], 9) for a, run in zip(values, runs[name, minus], strict=True)]
            keys.append((name, minus))
        over = between_seeds(values, K, -1.0 if minus else 0.0, 1.0)
        apart = "alike" if kind == "heads, rewards alike" else f"1 to {APART:.0f} apart"
        what = f"{K} goals in conflict, rewards {apart}: {name}, {kind.removesuffix(', rewards alike')}"
        what += f", minus {minus}" if minus else ""
        print(f"{what}: {over}")
        rows.append(
            Row(
                "pcgrad-rl" if kind == "PCGrad" else "multitask-rl", what, "share of goals reached", over.mean,
                over.low, over.high, n=K, seeds=options.seeds, target=target, better=better, source=source, tier="cpu",
                minutes=sum(run["minutes"] for key in keys for run in runs[key]), command=COMMAND,
            )  # type: ignore[arg-type]
        )  # fmt: skip

    plain, sharing = "issue target: a plain shared net", "issue target"
    for name, kind in wanted:
        if kind == "one net":
            claim(name, kind, "", 0.7, "lower", plain)
        elif kind in ("heads", "heads, rewards alike", "nothing shared"):
            claim(name, kind, "", 0.95, "higher", sharing if "heads" in kind else "computed: that of heads")
        if kind not in ("one net", "heads, rewards alike"):
            claim(name, kind, "one net", 0.1, "higher", "computed: one goal more")
    record(FOLDER, rows)
    if len(options.only) != 1:
        with rc_context({"svg.hashsalt": "off-policy", "svg.fonttype": "none"}):
            draw(runs).savefig(FOLDER / "off_policy.svg", metadata={"Date": None})


def draw(runs: dict[tuple[str, str], list[dict[str, float]]]) -> Figure:
    """Each run a dot, and the mean of a method's runs a line."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    names = list(dict.fromkeys(name for name, _ in runs))
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for place, kind in enumerate(reversed(KINDS)):
            found = [run["success"] for run in runs.get((name, kind), [])]
            if found:
                colour = "#009E73" if kind == "heads, rewards alike" else "#0072B2"
                shift = np.linspace(-0.2, 0.2, len(found))
                axes.plot(found, place + shift, "o", color=colour, alpha=0.5, ms=4, mew=0)
                axes.plot([np.mean(found)] * 2, [place - 0.3, place + 0.3], color=colour)
        axes.set(xlim=(-0.04, 1.04), title=name.upper() if name != "soft-q" else "soft Q", xlabel="goals reached")
        axes.set_yticks(range(len(KINDS)), reversed(KINDS))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
