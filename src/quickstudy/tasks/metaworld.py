"""Meta-World: fifty tasks of a robot's arm, in the benchmark's own splits, ML1's test goals kept apart."""

from __future__ import annotations

import copy
import multiprocessing
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import requires
from multiprocessing.connection import Connection
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core import InputError, Problem, RunError
from quickstudy.tasks.acting import Rule
from quickstudy.tasks.vector_env import FromGymnasium

try:
    import gymnasium
    import metaworld
    import mujoco
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, SyncVectorEnv
    from metaworld.policies import ENV_POLICY_MAP
except ImportError as error:
    raise InputError(
        "Expected Meta-World, whose tasks these are. Found that it is not installed. In an environment of its own run: "
        "pip install quickstudy[metaworld]; in a clone of the repository: make metaworld."
    ) from error

_WANTED = next((r for r in requires("metaworld") or () if r.startswith("mujoco==")), "mujoco").removeprefix("mujoco==")
if _WANTED not in ("mujoco", mujoco.__version__):
    raise InputError(
        f"Expected MuJoCo {_WANTED}, the one that Meta-World is made for and runs on. Found {mujoco.__version__}. "
        "Give it an environment of its own: pip install quickstudy[metaworld]; in a clone of the repository: "
        "make metaworld."
    )

Benchmark = Literal["MT1", "MT10", "MT50", "ML1", "ML10", "ML45"]
GOALS, SEEN, LENGTH = 50, 39, 500


@dataclass(frozen=True)
class Tasks:
    """One split of a benchmark.

    Args:
        names: its environments, in the benchmark's order.
        classes: their classes.
        goals: of each environment the fifty tasks that the benchmark draws: where things stand and what is the goal.
    """

    names: tuple[str, ...]
    classes: tuple[Any, ...]
    goals: tuple[tuple[Any, ...], ...]

    def some(self, wanted: Sequence[str]) -> Tasks:
        """Some of the environments, in the benchmark's order."""
        kept = [i for i, name in enumerate(self.names) if name in wanted]
        names, classes = tuple(self.names[i] for i in kept), tuple(self.classes[i] for i in kept)
        return Tasks(names, classes, tuple(self.goals[i] for i in kept))

    def places(self) -> np.ndarray[Any, Any]:
        """Where things stand and what is the goal. Shape: ``[environments * 50, numbers]``, padded with NaN."""
        rows = []
        for made, tasks in zip(self.classes, self.goals, strict=True):
            world = made()  # who is put to a task tells what it says
            for task in tasks:
                world.set_task(task)
                rows.append(np.ravel(world._last_rand_vec))
        return np.stack([np.pad(row, (0, 9 - len(row)), constant_values=np.nan) for row in rows])


def tasks_of(benchmark: Benchmark, split: Literal["train", "test"], task: str, seed: int) -> Tasks:
    """A split, made from the package's benchmark objects.

    The released id ``Meta-World/ML1-train`` makes the test tasks (Farama-Foundation/Metaworld#573: a loop's variable is
    read when the loop is over). The objects do not.
    """
    whole = benchmark_of(benchmark, task, seed)
    classes = whole.train_classes if split == "train" else whole.test_classes
    every = whole.train_tasks if split == "train" else whole.test_tasks
    goals = tuple(tuple(one for one in every if one.env_name == name) for name in classes)
    return Tasks(tuple(name.removesuffix("-v3") for name in classes), tuple(classes.values()), goals)


@cache
def benchmark_of(benchmark: Benchmark, task: str, seed: int) -> Any:
    """The package's object; once in a process, for it takes a second an environment.

    It draws from numpy's global generator, which it leaves as it was where it is given a seed.
    """
    made = getattr(metaworld, benchmark)
    return made(f"{task}-v3", seed=seed) if benchmark in ("MT1", "ML1") else made(seed=seed)


class Arm(gymnasium.Env[Any, Any]):
    """A place in a vector environment, where any task may be put: Gymnasium's words for one task at a time.

    Args:
        lend: environment by number, one that nobody else holds.
        give_back: takes it back.
        length: steps of an episode.
    """

    def __init__(self, lend: Any, give_back: Any, length: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (SEEN,), np.float64)
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.lend, self.give_back, self.length = lend, give_back, length
        self.number = -1
        self.task: Any = None
        self.world: Any = None
        self.success, self.steps = False, 0

    def put(self, number: int, task: Any) -> None:
        """Which task is to be done from the next reset on."""
        if number != self.number:
            if self.world is not None:
                self.give_back(self.number, self.world)
            self.number, self.world = number, self.lend(number)
        self.task = task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin anew. Nothing is left to chance: the task says where all stands."""
        super().reset(seed=seed)
        self.world.set_task(self.task)
        self.success, self.steps = False, 0
        return self.world.reset()[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; success is kept beside."""
        observation, reward, _, _, info = self.world.step(action)
        self.success, self.steps = bool(info["success"]), self.steps + 1
        return observation, float(reward), False, self.steps >= self.length, {}


class MetaWorld:
    """Tasks of Meta-World (Yu et al. 2019; version 3, rewards of version 2), through :class:`FromGymnasium`.

    - ``MT1``: one environment, fifty goals, which are seen. ``MT10``, ``MT50``: that many environments, whose number is
      seen besides, one-hot behind the observation. They have no test split: who is trained on them is judged on them.
    - ``ML1``: one environment; training and test goals are different ones, and not seen. ``ML10``, ``ML45``: the five
      test environments are different ones.

    Nothing ends an episode but time. Success is judged step by step: :meth:`success` tells of the latest trial whether
    it was there in the end and at any step, which are two figures. The benchmark's own evaluation counts any step.

    A seed draws the fifty goals of every environment. The package draws ML1's test goals from ``seed + 1``, so that the
    training goals of one seed are the test goals of the one before: take seeds that are two apart.

    Like :class:`FromGymnasium`, it is no pure function: there is one present for each number of tasks side by side.
    With ``workers``, that many processes have the robots, each as many as the next; what comes is the same. They are
    started anew, not forked, so a script that uses them must not run by being imported (``if __name__ == ...``).

    Args:
        benchmark: which.
        task: the environment of MT1 and ML1, such as ``"reach"``.
        split: training or test tasks.
        seed: draws the goals.
        length: steps of an episode; 500 is the benchmark's.
        shows_goal: whether the goal is seen; None for what the benchmark says.
        shows_identity: whether the environment's number is seen; None for what the benchmark says.
        only: the names of the environments to keep, where not all of the benchmark's; they are numbered anew.
        workers: processes that step the robots; 0 steps them in this one.

    Shape:
        tasks ``[T, 2]`` (number of the environment, number of the goal), observation ``[T, 39]`` with the identity
        behind where it is shown, action ``[T, 4]``.

    Raises:
        InputError: no such benchmark, task, split or environment.
        RunError: a process of a worker's has ended.

    Reference:
        Yu et al. 2019, Meta-World, arXiv:1910.10897; McLean et al. 2025, Meta-World+, arXiv:2505.11289.
    """

    only_forward = True

    def __init__(
        self,
        benchmark: Benchmark,
        task: str = "",
        *,
        split: Literal["train", "test"] = "train",
        seed: int = 0,
        length: int = LENGTH,
        shows_goal: bool | None = None,
        shows_identity: bool | None = None,
        only: Sequence[str] = (),
        workers: int = 0,
    ) -> None:
        single = benchmark in ("MT1", "ML1")
        if benchmark not in get_args(Benchmark) or split not in ("train", "test") or not 1 <= length <= LENGTH:
            raise InputError(
                f"Expected a benchmark of {', '.join(get_args(Benchmark))}, a split 'train' or 'test', and 1 to "
                f"{LENGTH} steps. Found {benchmark!r}, {split!r} and {length}."
            )
        if single != (f"{task}-v3" in ENV_POLICY_MAP):
            known = ", ".join(sorted(name.removesuffix("-v3") for name in ENV_POLICY_MAP))
            raise InputError(
                f"Expected {'one of ' + known if single else 'no task'} for {benchmark}. Found task {task!r}."
            )
        if benchmark.startswith("MT") and split == "test":
            raise InputError(f"Expected the split 'train': {benchmark} is judged on its own tasks. Found 'test'.")
        self.benchmark, self.length = benchmark, length
        self.tasks = tasks_of(benchmark, split, task, seed)
        if workers < 0 or not set(only) <= set(self.tasks.names):
            raise InputError(
                f"Expected at least 0 workers, and of the environments {', '.join(self.tasks.names)} those to keep. "
                f"Found {workers} and {', '.join(only) or 'none'}."
            )
        if only:
            self.tasks = self.tasks.some(only)
        self.workers = workers
        self.crews: dict[int, Crew] = {}
        self.shows_goal = benchmark.startswith("MT") if shows_goal is None else shows_goal
        self.shows_identity = benchmark in ("MT10", "MT50") if shows_identity is None else shows_identity
        self.idle: dict[int, list[Any]] = {}
        self.present: dict[int, FromGymnasium] = {}
        self.put: Tensor | None = None
        self.noted: list[Tensor] = []
        self.fresh = True

    @property
    def names(self) -> tuple[str, ...]:
        """The environments, in the order of their numbers."""
        return self.tasks.names

    @property
    def problem(self) -> Problem:
        """Hand, gripper and things, now and a step ago, the goal or zeros; how to move."""
        n = len(self.names)
        return Problem((SEEN + n * self.shows_identity,), "regression", 4, n_tasks=n)

    @property
    def horizon(self) -> int:
        """One episode."""
        return self.length

    def known(self) -> Tensor:
        """All tasks. Shape: ``[environments * 50, 2]``."""
        return torch.cartesian_prod(torch.arange(len(self.names)), torch.arange(GOALS)).float()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """N tasks: the environments in turn, with any of their goals.

        Where n is no multiple of the number of environments, those that come are drawn, none twice before all came.
        """
        k = len(self.names)
        order = torch.arange(k) if n % k == 0 else torch.randperm(k, generator=generator)
        goal = torch.randint(GOALS, (n,), generator=generator)
        return torch.stack([order[torch.arange(n) % k], goal], 1).float()

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Begin an episode of every task."""
        self.put, self.fresh = tasks.clone(), True
        if self.workers:
            return self.crew(len(tasks)).reset(tasks, generator)
        present = self.adapter(len(tasks))
        for arm, (number, goal) in zip(self.arms(present), tasks.long().tolist(), strict=True):
            arm.put(number, self.tasks.goals[number][goal])
        present.ended[:] = True  # all of them, whatever was going on
        state, observation = present.reset(tasks, generator)
        return state, self.see(observation, tasks)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of every task."""
        if self.put is None or not torch.equal(self.put, tasks):
            raise InputError(
                "Expected the tasks of the latest reset. Found others. A reset puts Meta-World's robots to their "
                "tasks: call reset(tasks) first."
            )
        if self.fresh:
            self.noted, self.fresh = [], False
        if self.workers:
            result, success = self.crew(len(tasks)).step(state, action, tasks)
            self.noted.append(success)
            return result
        present = self.adapter(len(tasks))
        state, observation, *rest = present.step(state, action, tasks, generator)
        self.noted.append(torch.tensor([arm.success for arm in self.arms(present)]))
        return (state, self.see(observation, tasks), *rest)  # type: ignore[return-value]

    def success(self) -> Tensor:
        """Whether each step of the latest trial was a success: ``[:, -1]`` in the end, ``.any(1)`` at any step.

        Shape:
            ``[T, steps]``, bool.
        """
        if not self.noted:
            raise InputError("Expected a trial to tell of. Found none. Act first, for instance by `collect`.")
        return torch.stack(self.noted, 1)

    def see(self, observation: Tensor, tasks: Tensor) -> Tensor:
        """With the goal or zeros for it, and the identity behind where it is shown."""
        seen = observation
        if self.shows_goal:
            seen = torch.cat([observation[:, : SEEN - 3], self.goal_positions(observation)], 1)
        if not self.shows_identity:
            return seen
        return torch.cat([seen, F.one_hot(tasks[:, 0].long(), len(self.names)).to(seen)], 1)

    def goal_positions(self, like: Tensor) -> Tensor:
        """Where each task of the latest reset is to be brought to. Shape: ``[T, 3]``."""
        if self.workers:
            return self.crew(len(like)).ask("goal_positions", like, like)[0]
        worlds = [arm.world for arm in self.arms(self.adapter(len(like)))]
        return torch.tensor(np.stack([world._get_pos_goal() for world in worlds]), dtype=like.dtype, device=like.device)

    def oracle(self, tasks: Tensor) -> Rule:
        """The package's scripted experts, which know the goal whether it is shown or not."""
        experts = [ENV_POLICY_MAP[f"{self.names[int(number)]}-v3"]() for number in tasks[:, 0]]

        def rule(observation: Tensor, generator: torch.Generator) -> Tensor:
            told = torch.cat([observation[:, : SEEN - 3], self.goal_positions(observation)], 1).double().cpu().numpy()
            actions = [expert.get_action(seen) for expert, seen in zip(experts, told, strict=True)]
            return torch.tensor(np.stack(actions), dtype=observation.dtype, device=observation.device).clamp(-1, 1)

        return Rule(rule)

    def adapter(self, n: int) -> FromGymnasium:
        """The vector environment for n tasks side by side."""
        if n not in self.present:
            make = partial(Arm, self._lend, self._give_back, self.length)
            envs = SyncVectorEnv([make] * n, autoreset_mode=AutoresetMode.DISABLED)
            self.present[n] = FromGymnasium(envs, self.length)
        return self.present[n]

    def crew(self, n: int) -> Crew:
        """The processes for n tasks side by side."""
        if n not in self.crews:
            alone = copy.copy(self)
            alone.workers, alone.crews, alone.idle, alone.present = 0, {}, {}, {}
            alone.put, alone.noted = None, []
            self.crews[n] = Crew(alone, n, min(self.workers, n))
        return self.crews[n]

    def close(self) -> None:
        """Let the processes go."""
        for crew in self.crews.values():
            crew.close()
        self.crews.clear()

    @staticmethod
    def arms(present: FromGymnasium) -> Sequence[Arm]:
        """The places of a vector environment."""
        envs = present.envs
        assert isinstance(envs, SyncVectorEnv)
        return envs.envs  # type: ignore[return-value]

    def _lend(self, number: int) -> Any:
        """A robot that nobody uses; made where there is none."""
        idle = self.idle.setdefault(number, [])
        return idle.pop() if idle else self.tasks.classes[number]()

    def _give_back(self, number: int, world: Any) -> None:
        self.idle.setdefault(number, []).append(world)


class Crew:
    """Processes that each have the robots of some of n tasks, which they step at the same time.

    Args:
        alone: the environment as each of them has it, unused so far.
        n: tasks side by side.
        workers: how many processes; each has one task at least.
    """

    def __init__(self, alone: MetaWorld, n: int, workers: int) -> None:
        self.sizes = [n // workers + (i < n % workers) for i in range(workers)]
        self.steps = 0
        # not forked: what other threads hold, an accelerator's say, would be held in the child for ever
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for _ in self.sizes:
            ours, theirs = context.Pipe()
            self.processes.append(context.Process(target=_serve, args=(theirs, alone), daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.pipes.append(ours)
        self.close = weakref.finalize(self, _dismiss, self.pipes, self.processes)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Begin an episode of every task."""
        torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device)  # as the adapter draws its seed
        self.steps = 0
        (observation,) = self.ask("reset", tasks, tasks)
        return self.ticket(tasks), observation

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
        """One step of every task, and whether it was a success."""
        if not bool((state == self.steps).all()):
            raise InputError(
                f"Expected the latest state, that after step {self.steps}. Found {state[:4].tolist()}. Robots cannot "
                "go back: step from the state that the last call gave."
            )
        self.steps += 1
        observation, reward, terminated, truncated, success = self.ask("step", action, tasks)
        return (self.ticket(tasks), observation, reward, terminated, truncated), success

    def ticket(self, tasks: Tensor) -> Tensor:
        """The present state's number. Shape: ``[T]``."""
        return torch.full((len(tasks),), self.steps, device=tasks.device)

    def ask(self, what: str, given: Tensor, like: Tensor) -> list[Tensor]:
        """What the processes answer, together, as numbers like those of the tasks.

        Raises:
            RunError: a process has ended.
        """
        try:
            for pipe, part in zip(self.pipes, given.detach().cpu().split(self.sizes), strict=True):
                pipe.send((what, part.numpy()))
            answers = [pipe.recv() for pipe in self.pipes]
        except (EOFError, OSError) as error:
            raise RunError(
                f"Expected {len(self.pipes)} processes that step Meta-World's robots. Found that one has ended "
                f"({type(error).__name__}). With workers=0 the reason shows here."
            ) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [torch.as_tensor(np.concatenate(part), device=like.device) for part in zip(*answers, strict=True)]


def _serve(pipe: Connection, alone: MetaWorld) -> None:
    """One process: does what it is asked, until nobody asks any more."""
    torch.set_num_threads(1)
    nothing, state, tasks = torch.Generator(), torch.zeros(0), torch.zeros(0)
    while True:
        try:
            what, given = pipe.recv()
        except EOFError:
            return
        answer: Any
        try:
            if what == "reset":
                tasks = torch.as_tensor(given)
                state, observation = alone.reset(tasks, nothing)
                answer = [observation]
            elif what == "step":
                state, *rest = alone.step(state, torch.as_tensor(given), tasks, nothing)
                answer = [*rest, alone.noted[-1]]
            else:
                answer = [alone.goal_positions(torch.as_tensor(given))]
            answer = [part.numpy() for part in answer]
        except (InputError, RunError) as error:  # any other ends the process, and says why on its way
            answer = error
        pipe.send(answer)


def _dismiss(pipes: list[Connection], processes: list[Any]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join()
