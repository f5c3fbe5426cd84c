"""The main job: which way of learning fits these tasks? Every method on both questions, same splits, same budget."""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy import __version__
from quickstudy.core import InputError, RunError
from quickstudy.evaluation.cell import Cell, run_cell, transfer_matrix
from quickstudy.evaluation.claims import hardware
from quickstudy.evaluation.statistics import Array, estimate
from quickstudy.evaluation.verdict import Contestant, decide
from quickstudy.methods.registry import build, find, standard_methods
from quickstudy.nets import is_large
from quickstudy.tasks.load import load
from quickstudy.tasks.study import Question, Study
from quickstudy.training import default_steps
from quickstudy.training.checkpoint import nulls, write_json

QUESTIONS: tuple[Question, ...] = ("have", "meet")
TITLES = {
    "have": "The tasks I have: held-out examples of each",
    "meet": "Tasks I will meet: held-out tasks, K labelled examples of each",
}

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of a study; two studies with equal plans print equal numbers.

    Args:
        data: a known name, a file or a folder.
        target: the column to predict (files).
        task: the column that names the task (one file).
        group: the column whose equal values stay on one side of the split.
        questions: ``have``, ``meet`` or both.
        methods: names; empty stands for the standard ones.
        seeds: independent repetitions.
        steps: training steps of every method; 0 stands for the data's default.
        shots: K of new tasks; 0 stands for the data's default.
        margin: the smallest gain that matters, in units of the score.
    """

    data: str
    target: str | None = None
    task: str | None = None
    group: str | None = None
    questions: tuple[Question, ...] = QUESTIONS
    methods: tuple[str, ...] = ()
    seeds: int = 3
    steps: int = 0
    shots: int = 0
    margin: float = 0.01

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "shots"):
            least = 1 if name == "seeds" else 0
            if getattr(self, name) < least:
                raise InputError(f"Expected --{name} of at least {least}. Found {getattr(self, name)}.")
        for name in self.methods:
            find(name)


Report = Callable[[str, int, int], None]


def compare(
    plan: Plan,
    out: Path,
    *,
    study: Study | None = None,
    resume: bool = False,
    workers: int = 0,
    on_progress: Report | None = None,
) -> dict[str, Any]:
    """Run a study and write ``results.json`` in ``out``.

    Cells (a question, a method, a seed) run in ``workers`` processes of one thread each, so that the numbers do not
    depend on how many processors there are. A cell's result is a file: what is finished stays finished.

    Args:
        plan: what to run.
        out: folder of the study.
        study: data that are already in memory (then in this process only); None loads ``plan.data``.
        resume: go on with a study that was stopped.
        workers: processes; 0 stands for the number of processors, 1 runs here.
        on_progress: called with a cell's name, its steps done and its steps.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: the folder holds another study, or unusable data or options.
        RunError: a cell failed; the others' results are kept.
    """
    begin = time.perf_counter()
    _check_folder(out, plan, resume)
    loaded = study if study is not None else load(plan.data, target=plan.target, task=plan.task, group=plan.group)
    cells, skipped = _cells(plan, loaded)
    if not cells:
        reasons = "; ".join(f"{name}: {why}" for refusals in skipped.values() for name, why in refusals.items())
        raise InputError(f"Expected a method that can serve {loaded.name}. Found none ({reasons}). Name another.")
    if not (out / "plan.json").is_file():  # not before the data are known to be usable
        write_json(out / "plan.json", asdict(plan))
    run = _run_here if study is not None or workers == 1 else _run_in_processes
    report = on_progress or _silent
    for cell in cells:  # whoever watches knows from the start how much there is to do
        report(cell.stem, 0, cell.steps)
    run(cells, plan, loaded, out / "cells", workers or os.cpu_count() or 1, report)
    results: dict[str, Any] = {
        "version": VERSION,
        "quickstudy": __version__,
        "data": loaded.name,
        "about": loaded.about,
        "plan": asdict(plan),
        "hardware": hardware(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "minutes": round((time.perf_counter() - begin) / 60, 2),
        "questions": {
            question: _summary(question, plan, loaded, out, [c for c in cells if c.question == question], skipped)
            for question in dict.fromkeys(cell.question for cell in cells)
        },
        "missing": {q: w for q, w in (loaded.missing or {}).items() if q in plan.questions},
    }
    results = nulls(results)
    write_json(out / "results.json", results)
    return results


def _silent(cell: str, done: int, steps: int) -> None:
    """No progress wanted."""


def _check_folder(out: Path, plan: Plan, resume: bool) -> None:
    """A folder belongs to one plan; nothing that is there is ever overwritten by another."""
    path = out / "plan.json"
    mine = json.loads(json.dumps(asdict(plan)))
    if path.is_file():
        theirs = json.loads(path.read_text())
        if not resume:
            raise InputError(
                f"Expected a new folder for this study. Found an earlier one in {out}. "
                "Go on with it by --resume, or name another folder by --out."
            )
        odd = sorted(key for key in mine if mine[key] != theirs.get(key))
        if odd:
            changes = ", ".join(f"{key} {theirs.get(key)!r} (now {mine[key]!r})" for key in odd)
            raise InputError(
                f"Expected the plan of the study in {out}. Found other values: {changes}. "
                "Resume with the same options, or name another folder by --out."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(
            f"Expected a new or empty folder for this study. Found other files in {out}. Name another by --out."
        )


def _cells(plan: Plan, study: Study) -> tuple[list[Cell], dict[str, dict[str, str]]]:
    """What to run, and for each question which methods do not apply and why."""
    names = plan.methods or standard_methods()
    cells: list[Cell] = []
    skipped: dict[str, dict[str, str]] = {}
    for question in plan.questions:
        if (study.have if question == "have" else study.meet) is None:
            if len(plan.questions) == 1:
                study.arena(question, 0)  # says why
            continue
        problem = study.arena(question, 0, shots=plan.shots or None, episodes=1).problem
        steps = plan.steps or default_steps(problem)
        every = max(1, steps // (5 if is_large(problem) else 25))
        refusals = {name: find(name).refuses(problem) for name in names}
        skipped[question] = {name: why for name, why in refusals.items() if why}
        cells += [
            Cell(question, name, seed, steps, every)
            for seed in range(plan.seeds)
            for name in names
            if not refusals[name]
        ]
    return cells, skipped


def _work(cell: Cell, plan: Plan, study: Study, folder: Path, report: Report) -> None:
    """One cell, in whichever process."""
    arena = study.arena(cell.question, cell.seed, shots=plan.shots or None)
    problem_steps = cell.steps
    run_cell(cell, arena, folder, lambda done, steps: report(cell.stem, done, steps))
    report(cell.stem, problem_steps, problem_steps)


def _run_here(cells: Iterable[Cell], plan: Plan, study: Study, folder: Path, workers: int, report: Report) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            _work(cell, plan, study, folder, report)
    finally:
        torch.set_num_threads(threads)


_worker: dict[str, Any] = {}


def _start_worker(plan: Plan, folder: Path, messages: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the study, which ends its workers
    _hold_interrupts(False)
    threading.Thread(target=_die_with_the_study, daemon=True).start()
    torch.set_num_threads(1)
    _worker.update(plan=plan, folder=folder, messages=messages, study=None, last=0.0)


def _hold_interrupts(hold: bool) -> None:
    """Whether Ctrl-C waits. A worker that is just starting takes this over, and cannot ignore it any sooner."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, {signal.SIGINT})


def _die_with_the_study() -> None:
    """A study that was killed leaves nobody behind who writes while another resumes it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work_in_process(cell: Cell) -> None:
    plan = _worker["plan"]
    if _worker["study"] is None:
        _worker["study"] = load(plan.data, target=plan.target, task=plan.task, group=plan.group)

    def report(name: str, done: int, steps: int) -> None:
        now = time.monotonic()
        if done == steps or now - _worker["last"] > 0.3:
            _worker["last"] = now
            _worker["messages"].put((name, done, steps))

    _work(cell, plan, _worker["study"], _worker["folder"], report)


def _run_in_processes(cells: list[Cell], plan: Plan, study: Study, folder: Path, workers: int, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    start = (plan, folder, messages)
    todo = [cell for cell in cells if not (folder / f"{cell.stem}.json").is_file()]
    for cell in cells:
        if cell not in todo:
            report(cell.stem, cell.steps, cell.steps)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, context, _start_worker, start) as pool:
        _hold_interrupts(True)
        waiting: dict[Future[None], Cell] = {pool.submit(_work_in_process, cell): cell for cell in todo}
        try:
            _hold_interrupts(False)
            while waiting:
                with contextlib.suppress(queue.Empty):
                    report(*messages.get(timeout=0.2))
                for future in [f for f in waiting if f.done()]:
                    cell = waiting.pop(future)
                    error = future.exception()
                    if isinstance(error, InputError):
                        raise error
                    if error is not None:
                        raise RunError(
                            f"Expected {cell.stem} to finish. Found: {error}. Finished cells are kept; go on by "
                            "--resume, or leave that method out by --methods."
                        ) from error
        except BaseException:
            # what is finished is kept, and a half-trained cell has its checkpoint: nothing is worth waiting for
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _summary(
    question: str,
    plan: Plan,
    study: Study,
    out: Path,
    cells: list[Cell],
    skipped: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Read the cells of a question and draw the conclusions."""
    found = {(c.method, c.seed): json.loads((out / "cells" / f"{c.stem}.json").read_text()) for c in cells}
    names = list(dict.fromkeys(c.method for c in cells))
    some = [found[names[0], seed] for seed in range(plan.seeds)]
    tasks = list(dict.fromkeys(name for result in some for name in result["names"]))
    where = {name: i for i, name in enumerate(tasks)}
    weights, rows = _per_task(some, where, "weights"), _per_task(some, where, "rows")
    rng = np.random.default_rng(0)
    problem = study.arena(cells[0].question, 0, shots=plan.shots or None, episodes=1).problem
    methods = []
    for name in names:
        cls = find(name)
        results = [found[name, seed] for seed in range(plan.seeds)]
        scores = _score_table(results, where)
        methods.append(
            {
                "name": name.rpartition(":")[2],
                "summary": cls.summary,
                "reference": cls.reference,
                "shares": cls.shares,
                "transductive": build(cls, problem, 0).transductive,
                "estimate": asdict(estimate(scores, weights, rng)),
                "scores": [[None if np.isnan(s) else float(s) for s in row] for row in scores],
                "validation": float(np.mean([r["validation"] for r in results])),
                "chosen": [r["chosen"] for r in results],
                "history": [r["history"] for r in results],
                "sweep": _mean_sweep([r["sweep"] for r in results]),
                "minutes": round(sum(r["seconds"] for r in results) / 60, 3),
            }
        )
    arena = study.arena(cells[0].question, 0, shots=plan.shots or None)
    summary: dict[str, Any] = {
        "title": TITLES[question],
        "metric": arena.problem.metric,
        "shots": arena.shots,
        "steps": cells[0].steps,
        "tasks": tasks,
        "weights": weights.tolist(),
        "rows": rows.tolist(),
        "methods": sorted(methods, key=lambda m: -m["estimate"]["mean"]),
        "skipped": skipped[question],
        "verdict": None,
        "differences": [],
        "affinity": None,
    }
    contestants = [
        Contestant(
            m["name"], m["shares"], m["validation"], _score_table([found[n, s] for s in range(plan.seeds)], where)
        )
        for n, m in zip(names, methods, strict=True)
    ]
    if any(c.shares for c in contestants) and any(not c.shares for c in contestants):
        verdict, differences = decide(
            contestants,
            tasks,
            weights,
            rows,
            metric=arena.problem.metric,
            margin=plan.margin,
            name_tasks=not tasks[0].startswith("episode "),
        )
        summary["verdict"] = verdict.as_dict()
        summary["differences"] = [asdict(d) for d in differences]
        if arena.problem.shared_labels and question == "have":
            alone = next(n for n in names if n.rpartition(":")[2] == verdict.reference)
            summary["affinity"] = _affinity(alone, cells[0].steps, found[alone, 0]["chosen"], study, out)
    return summary


def _affinity(name: str, steps: int, chosen: Mapping[str, float], study: Study, out: Path) -> dict[str, Any]:
    """What is learned on one task alone, tried on all others."""
    arena = study.arena("have", 0)
    method = build(find(name), replace(arena.problem, n_tasks=0), 0)
    for key, value in chosen.items():
        setattr(method, key, value)
    episodes = replace(arena.test, task=None)
    return {"method": name, "names": list(arena.names)[:40], "matrix": transfer_matrix(method, episodes)}


def _per_task(results: list[dict[str, Any]], where: Mapping[str, int], key: str) -> Array:
    """A number of each task, averaged over the seeds that tested it. ``[tasks]``."""
    total, count = np.zeros(len(where)), np.zeros(len(where))
    for result in results:
        for name, value in zip(result["names"], result[key], strict=True):
            total[where[name]] += value
            count[where[name]] += 1
    mean: Array = total / count
    return mean


def _score_table(results: list[dict[str, Any]], where: Mapping[str, int]) -> Array:
    """Scores ``[seeds, tasks]``, NaN where a seed did not test a task."""
    table: Array = np.full((len(results), len(where)), np.nan)
    for seed, result in enumerate(results):
        for name, score in zip(result["names"], result["scores"], strict=True):
            table[seed, where[name]] = score
    return table


def _mean_sweep(sweeps: list[dict[str, float]]) -> dict[str, float]:
    """The curve's mean over seeds, where all seeds have a point."""
    common = set.intersection(*(set(s) for s in sweeps))
    return {k: float(np.mean([s[k] for s in sweeps])) for k in sorted(common, key=int)}
