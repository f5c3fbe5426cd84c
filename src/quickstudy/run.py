"""A trained run: one method, one question, one folder. Train it, evaluate it, and take its model elsewhere."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from quickstudy import __version__
from quickstudy.core import Estimate, InputError
from quickstudy.evaluation.cell import choose
from quickstudy.evaluation.evaluate import evaluate
from quickstudy.methods.registry import build, find
from quickstudy.model import Model, with_classes
from quickstudy.tasks.columns import Columns, read_examples
from quickstudy.tasks.load import load
from quickstudy.tasks.study import Arena, Question, SplitClasses, Study
from quickstudy.tasks.table import TableTasks, TaskTable
from quickstudy.training import default_steps
from quickstudy.training.checkpoint import write_atomic, write_json
from quickstudy.training.device import device_named, on_device
from quickstudy.training.fit import fit

CONFIG, CHECKPOINT, MODEL = "config.json", "checkpoint.safetensors", "model.safetensors"


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's numbers.

    Args:
        method: a registered name, or ``my_file.py:MyMethod``.
        data: a known name, a file or a folder.
        target: the column to predict (files).
        task: the column that names the task (one file).
        group: the column whose equal values stay on one side of the split.
        question: ``have`` or ``meet``; None takes ``meet`` where the data allow it.
        seed: of split, first weights and episodes.
        steps: training steps; 0 stands for the data's default.
        shots: K of new tasks; 0 stands for the data's default.
        ways: N of new tasks with classes of their own; 0 stands for the data's default.
        settings: of the method.
    """

    method: str
    data: str
    target: str | None = None
    task: str | None = None
    group: str | None = None
    question: Question | None = None
    seed: int = 0
    steps: int = 0
    shots: int = 0
    ways: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("seed", "steps", "shots", "ways"):
            if getattr(self, name) < 0:
                raise InputError(f"Expected --{name} of at least 0. Found {getattr(self, name)}.")

    def study(self) -> Study:
        """The data."""
        return load(self.data, target=self.target, task=self.task, group=self.group)

    def arena(
        self, study: Study | None = None, *, shots: int | None = None, ways: int | None = None, episodes: int = 200
    ) -> Arena:
        """This run's splits.

        Args:
            study: the data, where they are at hand.
            shots: K, where it is to differ from the run's.
            ways: N, where it is to differ from the run's.
            episodes: validation and test episodes of class sets.

        Raises:
            InputError: the data do not have such tasks.
        """
        study = self.study() if study is None else study
        question: Question = self.question or ("meet" if study.meet is not None else "have")
        if question == "have" and (shots or self.shots):
            raise InputError(
                "Expected no --shots with the question 'have', where all training examples of a task are its support. "
                f"Found --shots {shots or self.shots}. Leave it out, or ask --question meet."
            )
        ways = ways or self.ways
        if ways:
            if question == "have" or not isinstance(study.meet, SplitClasses):
                raise InputError(
                    f"Expected no --ways: the tasks of {study.name} have classes of their own making. Found --ways "
                    f"{ways}. Leave it out."
                )
            if ways < 2:
                raise InputError(f"Expected at least 2 ways. Found {ways}: there is nothing to tell apart.")
            study = replace(study, meet=replace(study.meet, ways=ways))
        return study.arena(question, self.seed, shots=shots or self.shots or None, episodes=episodes)


@dataclass(frozen=True)
class Run:
    """A folder that :func:`train` wrote.

    Args:
        folder: where ``config.json`` and ``model.safetensors`` are.
        config: what was trained.
    """

    folder: Path
    config: Config

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Read a run's folder.

        Raises:
            InputError: no such folder, or one that holds no finished run.
        """
        config = stored(folder)
        check_finished(folder, config)
        return cls(folder, config)

    def model(self) -> Model:
        """The trained method with the meaning of its inputs and answers."""
        return Model.load(self.folder / MODEL)

    def evaluate(self, *, episodes: int | None = None, shots: int | None = None, ways: int | None = None) -> Estimate:
        """Score on the test tasks; writes ``evaluation.json``.

        Args:
            episodes: how many test episodes of class sets (600 by default); other data have the tasks they have.
            shots: K, where it is to differ from training's.
            ways: N, where it is to differ from training's.

        Raises:
            InputError: the data or the method cannot do that.
        """
        study, model = self.config.study(), self.model()
        arena = self.config.arena(study, shots=shots, ways=ways, episodes=episodes or 600)
        drawn = arena.question == "meet" and isinstance(study.meet, SplitClasses)
        if episodes is not None and not drawn:
            raise InputError(
                f"Expected no --episodes: {study.name} has {len(arena.names)} test tasks, and all are taken. "
                f"Found --episodes {episodes}. Leave it out."
            )
        method = model.method
        if drawn:
            method = with_classes(method, arena.problem.n_outputs)
        found = evaluate(method, arena.test)
        facts = {"question": arena.question, "shots": arena.shots, "metric": arena.problem.metric}
        write_json(self.folder / "evaluation.json", {**facts, **plain(found)})
        return found

    def adapt(self, support: Path) -> Model:
        """Learn a new task from labelled examples: a table, or a folder of class folders of images.

        Raises:
            InputError: the file or folder cannot be used.
        """
        model = self.model()
        examples = read_examples(support, model.problem.x_shape, model.columns)
        if examples.y is None:
            wanted = f"a column {model.columns.target!r}" if model.columns else "a column target, or class folders"
            raise InputError(f"Expected labelled examples in {support}. Found no labels. Add {wanted}.")
        return model.adapt(examples.x, examples.y)

    def recall(self, task: str) -> Model:
        """The model of one of the tasks that the run was trained on, from that task's own training examples.

        Raises:
            InputError: this run is about new tasks, or has no task of that name.
        """
        arena = self.config.arena()
        if arena.test.task is None:
            raise InputError(
                f"Expected a run on the tasks I have. Found one on new tasks in {self.folder}. Give the examples of "
                "a new task, or train with --question have."
            )
        if task not in arena.names:
            near = difflib.get_close_matches(task, arena.names, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(arena.names[:40])}."
            raise InputError(f"Expected one of the run's {len(arena.names)} tasks. Found {task!r}. {hint}")
        where = slice(arena.names.index(task), arena.names.index(task) + 1)
        return self.model().of_task(arena.test.support.tasks(where), arena.test.task[where])


def answers(model: Path, query: Path) -> pd.DataFrame:
    """What an adapted model says of new examples: a row each, with classes' probabilities or numbers.

    Raises:
        InputError: no adapted model, or examples that do not fit it.
    """
    learner = Model.load(model)
    if learner.support is None:
        raise InputError(
            f"Expected a model of a task in {model}. Found one that has seen no task. Adapt it first: "
            f"quickstudy adapt {model} SUPPORT -o MODEL"
        )
    examples = read_examples(query, learner.problem.x_shape, learner.columns)
    frame = pd.DataFrame({"file": examples.names}) if examples.names else pd.DataFrame(index=range(len(examples.x)))
    said = learner.predict(examples.x)
    if learner.problem.kind == "classification":
        frame["prediction"] = said
        for label, share in zip(learner.labels, learner.probabilities(examples.x).T, strict=True):
            frame[f"p({label})"] = share
        return frame
    width = learner.deviation(examples.x)
    for i in range(said.shape[1]):
        number = f" {i + 1}" if said.shape[1] > 1 else ""
        frame[f"prediction{number}"] = said[:, i]
        if width is not None:
            frame[f"deviation{number}"] = width[:, i]
    return frame


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected JSON in {path}. Found that it cannot be read ({error}). Use another folder."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"Expected a JSON object in {path}. Found {type(content).__name__}. Use another folder.")
    return content


def read_config(folder: Path) -> Config:
    """What a run's folder says about it.

    Raises:
        InputError: ``config.json`` is no run's.
    """
    try:
        return Config(**read_json(folder / CONFIG)["run"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"Expected a run's {CONFIG} in {folder}. Found one that cannot be used ({error}). Train again elsewhere."
        ) from error


def stored(folder: Path) -> Config:
    """What is said of a run by the folder that somebody named.

    Raises:
        InputError: it is no run's folder.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"Expected a run's folder. Found no {CONFIG} in {folder}. Train first, or correct the path.")
    return read_config(folder)


def check_finished(folder: Path, config: Config) -> None:
    """Refuse a run that was stopped; says how it goes on."""
    if not (folder / MODEL).is_file():
        raise InputError(
            f"Expected a finished run in {folder}. Found one that was stopped. Go on with it: "
            f"quickstudy train {config.method} --data {config.data} --out {folder} --resume"
        )


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Run, Estimate]:
    """Train one method, choose its settings on validation, and write a run's folder.

    Args:
        config: what to train.
        out: the folder.
        resume: go on with a run that was stopped.
        device: where it is trained, such as ``"cuda"``. Episodes and first weights are the same on every device, and
            what is written can be used on any.
        progress: called with (steps done, steps).

    Returns:
        The run, and its score on validation. Test tasks are not looked at.

    Raises:
        InputError: the folder holds something else, or unusable data or options, or no such device.
    """
    where = device_named(device)
    cls = find(config.method)
    study = config.study()
    arena = config.arena(study)
    refusal = cls.refuses(arena.problem)
    if refusal:
        raise InputError(f"Expected tasks that {cls.name!r} can serve. Found that it {refusal}.")
    method = build(cls, arena.problem, config.seed, **config.settings)
    claim_folder(out, config, resume)
    steps = config.steps or default_steps(arena.problem)
    if not (out / MODEL).is_file():
        validation = arena.validation.to(where)
        history = fit(
            method.to(where),
            on_device(arena.train, where),
            steps=steps,
            tasks=arena.tasks_per_step,
            lr=method.lr,
            validation=validation,
            every=max(1, steps // 10),
            generator=torch.Generator().manual_seed(10_000 + config.seed),
            checkpoint=out / CHECKPOINT,
            resume=resume,
            progress=progress,
        )
        choose(method, validation)
        method.to("cpu")
        lines = [
            json.dumps({"step": step, "loss": loss, "validation": score})
            for step, loss, score in zip(history.step, history.loss, history.score, strict=True)
        ]
        write_atomic(out / "metrics.jsonl", "".join(line + "\n" for line in lines).encode())
        _model(method.eval(), config, study, arena).save(out / MODEL)
        (out / CHECKPOINT).unlink(missing_ok=True)  # last: a stop before it loses nothing
    run = Run(out, config)
    found = evaluate(run.model().method, arena.validation)
    write_json(out / "validation.json", {"metric": arena.problem.metric, **plain(found)})
    return run, found


def plain(estimate: Estimate) -> dict[str, Any]:
    """For JSON, which has no infinity: the ends of an interval that too few tasks leave open are null."""
    return {key: value if math.isfinite(value) else None for key, value in asdict(estimate).items()}


def _model(method: Any, config: Config, study: Study, arena: Arena) -> Model:
    """The method with the meaning of its inputs and answers."""
    scale = arena.train.scale if isinstance(arena.train, TableTasks) else None
    table = study.have if arena.question == "have" else study.meet
    labels = table.labels if isinstance(table, TaskTable) and arena.problem.shared_labels else ()
    columns = None
    if len(arena.problem.x_shape) == 1 and Path(config.data).expanduser().exists():
        columns = Columns.of(config.data, target=config.target, task=config.task, group=config.group)
    return Model(method, config.method, config.settings, scale, columns, labels)


def claim_folder(out: Path, config: Config, resume: bool) -> None:
    """A folder belongs to one run; nothing that is there is ever overwritten by another."""
    if (out / CONFIG).is_file():
        if not resume:
            raise InputError(
                f"Expected a new folder for this run. Found an earlier one in {out}. "
                "Go on with it by --resume, or name another folder by --out."
            )
        mine, theirs = asdict(config), asdict(read_config(out))
        odd = sorted(key for key in mine if mine[key] != theirs[key])
        if odd:
            changes = ", ".join(f"{key} {theirs[key]!r} (now {mine[key]!r})" for key in odd)
            raise InputError(
                f"Expected the options of the run in {out}. Found other values: {changes}. "
                "Resume with the same options, or name another folder by --out."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(
            f"Expected a new or empty folder for this run. Found other files in {out}. Name another by --out."
        )
    write_json(out / CONFIG, {"quickstudy": __version__, "run": asdict(config)})
