"""Studies of made-up scores: drawn with known effects, judged by the library's own ``decide``."""

from dataclasses import asdict
from typing import Any

import numpy as np

from quickstudy.evaluation.statistics import Array, estimate
from quickstudy.evaluation.verdict import Contestant, decide

# name, whether it shares, gain over learning alone, whether it is trained step by step, settings
METHODS: tuple[tuple[str, bool, float, bool, dict[str, float]], ...] = (
    ("ridge", False, 0.0, False, {"l2": 10.0}),
    ("scratch", False, -0.04, True, {"steps": 100.0}),
    ("boosting", False, -0.02, False, {}),
    ("pooled", True, -0.08, True, {}),
    ("multi_head", True, 0.05, True, {}),
    ("finetune", True, 0.03, True, {"steps": 20.0}),
    ("maml", True, 0.04, True, {"test_steps": 5.0}),
    ("neural_process", True, -0.01, True, {}),
)


TITLES = {"have": "The tasks I have: held-out examples of each", "meet": "Tasks I will meet: held-out tasks"}


def question(
    key: str,
    tasks: int,
    *,
    seeds: int = 3,
    effect: float = 1.0,
    episodes: bool = False,
    methods: tuple[tuple[str, bool, float, bool, dict[str, float]], ...] = METHODS,
    names: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One question of a ``results.json``; gains are multiplied by ``effect``."""
    rng = np.random.default_rng(tasks)
    named = tuple(names) or tuple(f"{'episode' if episodes else 'school'} {i + 1}" for i in range(tasks))
    easy = rng.normal(0.7, 0.08, tasks)
    weights, rows = np.ones(tasks), rng.integers(20, 120, tasks).astype(float)
    likes_sharing = rng.normal(1.0, 0.9, tasks)
    found, contestants = [], []
    for name, shares, gain, trained, chosen in methods:
        each = easy + effect * gain * (likes_sharing if shares else 1.0)
        scores = (each + rng.normal(0, 0.01, (seeds, tasks))).clip(0, 1)
        if key == "meet" and not episodes and seeds >= 3:
            scores[(np.arange(tasks) % 3) != (np.arange(seeds)[:, None] % 3)] = np.nan  # a fold each
        validation = 0.7 + effect * gain + rng.normal(0, 0.003)
        contestants.append(Contestant(name, shares, validation, scores))
        found.append(_measured(name, shares, trained, chosen, validation, scores, weights, key, seeds, rng))
    summary: dict[str, Any] = {
        "title": TITLES[key],
        "metric": "accuracy",
        "shots": 5 if key == "meet" else 0,
        "steps": 1000,
        "tasks": list(named),
        "weights": weights.tolist(),
        "rows": rows.tolist(),
        "methods": sorted(found, key=lambda m: -m["estimate"]["mean"]),
        "skipped": {"prototypical": "needs classes; these tasks predict numbers"},
        "verdict": None,
        "differences": [],
        "affinity": None,
    }
    if len({c.shares for c in contestants}) == 2:
        verdict, differences = decide(contestants, named, weights, rows, metric="accuracy", name_tasks=not episodes)
        summary["verdict"] = verdict.as_dict()
        summary["differences"] = [asdict(d) for d in differences]
        if key == "have":
            summary["affinity"] = _affinity(named[:40], verdict.reference, rng)
    return summary


def _measured(
    name: str,
    shares: bool,
    trained: bool,
    chosen: dict[str, float],
    validation: float,
    scores: Array,
    weights: Array,
    key: str,
    seeds: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    steps = list(range(100, 1001, 100)) if trained else []
    curve = lambda: [float(validation - 0.3 * 0.7**i + rng.normal(0, 0.008)) for i in range(len(steps))]  # noqa: E731
    sweep = {str(k): float(validation - 0.25 / (k + shares) + 0.05) for k in (1, 2, 3, 5, 10, 20)}
    return {
        "name": name,
        "summary": f"{name}, as in the literature",
        "reference": "Finn et al. 2017, arXiv:1703.03400" if name == "maml" else "",
        "shares": shares,
        "transductive": name == "maml",
        "estimate": asdict(estimate(scores, weights, np.random.default_rng(0))),
        "scores": [[None if np.isnan(s) else float(s) for s in row] for row in scores],
        "validation": validation,
        "chosen": [chosen] * seeds,
        "history": [{"step": steps, "loss": curve(), "score": curve(), "best_step": 900} for _ in range(seeds)],
        "sweep": sweep if key == "meet" else {},
        "minutes": 0.42,
    }


def _affinity(names: tuple[str, ...], method: str, rng: np.random.Generator) -> dict[str, Any]:
    """Two groups of tasks that serve each other."""
    group = np.arange(len(names)) % 2
    matrix = np.where(group[:, None] == group, 0.7, 0.4) + rng.normal(0, 0.04, (len(names), len(names)))
    return {"method": method, "names": list(names), "matrix": matrix.tolist()}


def results(**questions: dict[str, Any]) -> dict[str, Any]:
    """A ``results.json`` of the given questions."""
    return {
        "version": 1,
        "quickstudy": "0.1.0",
        "data": "schools",
        "about": "Exam scores of pupils, made up for tests.",
        "plan": {
            "data": "schools.csv",
            "target": "exam score",
            "task": "school",
            "group": None,
            "questions": list(questions) or ["have", "meet"],
            "methods": [],
            "seeds": 3,
            "steps": 0,
            "shots": 5,
            "margin": 0.01,
        },
        "hardware": "a processor, 2 cores, torch 2.13.0",
        "date": "2026-01-31",
        "minutes": 7.31,
        "questions": questions,
        "missing": {},
    }
