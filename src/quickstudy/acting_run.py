"""A trained run of a method that acts: one environment, one folder. Train it, evaluate it, see what it does."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from quickstudy.core import Environment, Estimate, Explorer, Follows, Imitates, InputError, Policy
from quickstudy.evaluation.acting import evaluate_acting, trial_scores
from quickstudy.methods.registry import build, find
from quickstudy.methods.rl._policies import best_of
from quickstudy.methods.rl.relabel import Hindsight
from quickstudy.reports.acting import write_acting_report
from quickstudy.run import CHECKPOINT, MODEL, Config, check_finished, claim_folder, plain, stored
from quickstudy.tasks.acting import OnDevice
from quickstudy.tasks.worlds import is_world, world
from quickstudy.training import fit_imitation, fit_off_policy, fit_rl
from quickstudy.training.checkpoint import load_checkpoint, save_checkpoint, write_atomic, write_json
from quickstudy.training.device import device_named

METRIC = "total reward"
POINTS, VALIDATION, TEST = 20, 50, 200  # of the learning curve, of each of its points, of a score


@dataclass(frozen=True)
class ActingRun:
    """A folder that :func:`train` wrote.

    Args:
        folder: where ``config.json`` and ``model.safetensors`` are.
        config: what was trained.
    """

    folder: Path
    config: Config

    @classmethod
    def load(cls, folder: Path) -> ActingRun:
        """Read a run's folder.

        Raises:
            InputError: no such folder, one that holds no finished run, or a run that does not act.
        """
        config = stored(folder)
        if not is_world(config.data):
            raise InputError(
                f"Expected a run that acts in an environment. Found one of {config.method!r} on {config.data!r} in "
                f"{folder}, which are examples. Train one: quickstudy train ppo --data cart-pole"
            )
        check_finished(folder, config)
        return cls(folder, config)

    def environment(self) -> Environment:
        """Where it acts."""
        return world(self.config.data)

    def method(self) -> Explorer:
        """The trained method.

        Raises:
            InputError: the weights are of other code.
        """
        method = _build(self.config, self.environment())
        tensors, facts = load_checkpoint(self.folder / MODEL)
        if facts.get("holds") != "policy":
            raise InputError(
                f"Expected the model of a run that acts in {self.folder / MODEL}. Found another. Train again."
            )
        try:
            method.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(
                f"Expected the weights of {self.config.method!r} in {self.folder / MODEL}. Found others ({error}). "
                "Train again with the code as it is now."
            ) from error
        return method.eval()

    def evaluate(self, episodes: int | None = None) -> Estimate:
        """Total reward in new tasks; writes ``evaluation.json``.

        Args:
            episodes: how many tasks (200 by default).
        """
        found = evaluate_acting(self.environment(), policy_of(self.method()), tasks=episodes or TEST)
        write_json(self.folder / "evaluation.json", {"metric": METRIC, **plain(found)})
        return found


def policy_of(method: Explorer) -> Policy:
    """Who is judged: does what the method thinks best; with a memory, acts as it learned to."""
    memoryless: Any = method
    return best_of(memoryless) if hasattr(method, "predict") else method.explorer()


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ActingRun, Estimate]:
    """Train one method in an environment, and write a run's folder with ``report.html``.

    Args:
        config: what to train; ``data`` names the environment.
        out: the folder.
        resume: go on with a run that was stopped.
        device: where nets, memory and learning are, such as ``"cuda"``; the environment computes on the processor, and
            what is judged is a copy there. On CUDA a method that learns from a memory is trained by one program.
        progress: called with (steps done, steps).

    Returns:
        The run, and its total reward in validation tasks.

    Raises:
        InputError: the folder holds something else, options that have no meaning here, a method that cannot serve, or
            no such device.
        RunError: training went wrong, or the environment did; what was learned until then is saved.
    """
    for option in ("target", "task", "group", "question", "shots", "ways"):
        if getattr(config, option):
            raise InputError(
                f"Expected no --{option}: {config.data!r} is an environment to act in, which has no examples. Found "
                f"--{option} {getattr(config, option)}. Leave it out."
            )
    where, environment = device_named(device), world(config.data)
    method = _build(config, environment).to(where)
    claim_folder(out, config, resume)
    curve = _read_curve(out / "metrics.jsonl") if resume else {}
    if not (out / MODEL).is_file():
        steps, each, loop = _loop(method, environment, config, where)
        every = max(1, steps // POINTS)

        def note(done: int, total: int) -> None:
            if done % every == 0 or done == total:
                chance = torch.Generator().manual_seed(20_000 + config.seed)
                tasks = environment.sample(VALIDATION, chance)
                near = method if where.type == "cpu" else copy.deepcopy(method).cpu()
                curve[done * each] = float(trial_scores(environment, policy_of(near), tasks, chance).mean())
                lines = (json.dumps({"steps": at, METRIC: score}) + "\n" for at, score in sorted(curve.items()))
                write_atomic(out / "metrics.jsonl", "".join(lines).encode())
            if progress is not None:
                progress(done, total)

        loop(
            every=every,
            generator=torch.Generator().manual_seed(10_000 + config.seed),
            checkpoint=out / CHECKPOINT,
            resume=resume,
            progress=note,
        )
        save_checkpoint(out / MODEL, method.eval().state_dict(), {"holds": "policy", "source": config.method})
        (out / CHECKPOINT).unlink(missing_ok=True)  # last: a stop before it loses nothing
    run = ActingRun(out, config)
    policy = policy_of(run.method())
    found = evaluate_acting(environment, policy, draw=20_000 + config.seed)
    write_json(out / "validation.json", {"metric": METRIC, **plain(found)})
    write_acting_report(
        environment, policy, asdict(config), _read_curve(out / "metrics.jsonl"), found, out / "report.html"
    )
    return run, found


def _build(config: Config, environment: Environment) -> Explorer:
    cls = find(config.method)
    if not issubclass(cls, Explorer):
        raise InputError(
            f"Expected a method that acts, for the environment {config.data!r}. Found {config.method!r}, which learns "
            "from examples. Take ppo, sac, dqn or rl2, or see `quickstudy list`."
        )
    if not cls.trains:
        raise InputError(
            f"Expected a method that is trained over many tasks. Found {config.method!r}, which learns each task from "
            "its own steps by itself. Use it from Python."
        )
    method = build(cls, environment.problem, config.seed, **config.settings)
    assert isinstance(method, Explorer)
    return method


def _loop(
    method: Explorer, inside: Environment, config: Config, where: torch.device
) -> tuple[int, int, Callable[..., Any]]:
    """Steps, environment steps of each, and the loop that suits the method."""
    environment = inside if where.type == "cpu" else OnDevice(inside, where)
    if isinstance(method, Imitates):
        if where.type != "cpu":
            raise InputError(
                f"Expected no --device: {config.method!r} imitates an oracle, which is on the processor. Found "
                f"{str(where)!r}. Leave it out."
            )
        oracle = getattr(environment, "oracle", None)
        if oracle is None:
            raise InputError(
                f"Expected an environment with an oracle to imitate, for {config.method!r}. Found none in "
                f"{config.data!r}. Take another environment, or a method that learns from rewards."
            )
        rounds, tasks = config.steps or 5, 32

        def imitate(*, every: int, **options: Any) -> object:
            return fit_imitation(method, environment, oracle, rounds=rounds, tasks=tasks, **options)

        return rounds, tasks * environment.horizon, imitate
    if isinstance(method, Follows):
        steps, tasks = config.steps or 5000, 4
        goals = all(hasattr(inside, part) for part in ("goals", "relabel", "outcome"))
        relabel: Any = Hindsight(inside) if goals and getattr(inside, "shows_goal", True) else None  # type: ignore[arg-type]

        def remember(**options: Any) -> object:
            return fit_off_policy(
                method, environment, steps=steps, tasks=tasks, warmup=min(1000, 4 * steps // 10), relabel=relabel,
                lr=method.lr, compile=where.type == "cuda", **options,
            )  # fmt: skip

        return steps, tasks, remember
    steps, tasks = config.steps or 100, max(8, 4096 // environment.horizon)

    def act(**options: Any) -> object:
        return fit_rl(method, environment, steps=steps, tasks=tasks, passes=method.passes, lr=method.lr, **options)

    return steps, tasks * environment.horizon, act


def _read_curve(path: Path) -> dict[int, float]:
    """Environment steps to total reward."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {int(row["steps"]): float(row[METRIC]) for row in rows if math.isfinite(row[METRIC])}
