"""Which labels to ask for: a learned policy beside chance, a heuristic and one label of each class, on Omniglot.

    QUICKSTUDY_DATA=... python recipes/active-matching/recipe.py [--seeds 0 1 2]    # 3 minutes a seed, one thread

10 characters, a pool of 4 drawings of each, labels for 10 of the 40; 5 other drawings of each character are the query.
Vinyals split, rotations are characters of their own, 600 test episodes of new characters, the same for all, so that
differences are taken in pairs. Bachman et al. 2017 train all parts together; on two cores that is too slow, so the
drawings are embedded once by a prototypical network (the strided four-block net of width 32 in bfloat16, 60-way 1-shot,
3000 steps, training characters only) that then stays as it is, and the controller learns on these embeddings.

Ways to choose, each for the same predictor (the slow one of the trained method), embeddings and number of labels: the
learned policy; chance; the drawing whose most similar labelled drawing is the least similar (min-max-cos in the paper),
from a first one at random; and one label of each character, which nobody can ask for who does not know the labels. The
same choices are also judged by class means in the embedding. Two seeds come to what the heuristic does, or beyond it;
one stays where REINFORCE soon left off. Tried on it: a rate of 3e-3 (worse), a first policy close to uniform (.80 of
the validation queries for .76, while another seed lost .04). The paper's cold start of recommendations on MovieLens is
left out. A finished run is a file in ``runs/active-matching``; a stopped recipe goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core import Batch, Episodes, Estimate
from quickstudy.evaluation.claims import Row, record
from quickstudy.evaluation.statistics import estimate
from quickstudy.methods import ActiveMatching, Prototypical
from quickstudy.nets import Bfloat16, encoder_for
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.load import load
from quickstudy.tasks.study import SplitClasses
from quickstudy.training import fit, task_scores
from quickstudy.training.checkpoint import write_json

FOLDER = Path(__file__).parent
RUNS = Path("runs/active-matching")
COMMAND = "python recipes/active-matching/recipe.py"
WAYS, DRAWINGS, QUERIES = 10, 4, 5
FIRST_STEPS, STEPS, TASKS, EPISODES = 3000, 1000, 32, 600
BUDGETS = (5, 10, 20)  # labels to read; trained with 10
Pick = Callable[[Batch, int, torch.Generator], Tensor]  # a pool and a budget to the chosen items, bool [T, n]


def at_random(pool: Batch, budget: int, generator: torch.Generator) -> Tensor:
    """Any of them."""
    return torch.rand(pool.y.shape, generator=generator).argsort(1).argsort(1) < budget


def far_first(pool: Batch, budget: int, generator: torch.Generator) -> Tensor:
    """The drawing whose most similar labelled drawing is the least similar; the first at random."""
    unit = F.normalize(pool.x, dim=-1)
    near = unit @ unit.mT
    chosen = F.one_hot(torch.randint(pool.n, (pool.n_tasks,), generator=generator), pool.n).bool()
    for _ in range(budget - 1):
        largest = near.masked_fill(~chosen.unsqueeze(1), -2.0).amax(-1).masked_fill(chosen, 2.0)
        chosen = chosen | F.one_hot(largest.argmin(1), pool.n).bool()
    return chosen


def balanced(pool: Batch, budget: int, generator: torch.Generator) -> Tensor:
    """As many of each class: knows all labels beforehand."""
    key = torch.rand(pool.y.shape, generator=generator)
    same = pool.y.unsqueeze(2) == pool.y.unsqueeze(1)
    rank = (same & (key.unsqueeze(1) < key.unsqueeze(2))).sum(2)  # of an item among its class, in random order
    return (rank + 0.5 * torch.rand((pool.n_tasks, WAYS), generator=generator).gather(1, pool.y)).argsort(1).argsort(
        1
    ) < budget


PICKS: dict[str, Pick] = {"random": at_random, "far-first": far_first, "balanced": balanced}


def embedded(data: SplitClasses, seed: int, given: argparse.Namespace, out: Path) -> ClassSet:
    """All drawings in the embedding of a prototypical network that was trained on the training characters."""
    train = ClassEpisodes(data.classes, data.splits["train"], ways=60, shots=1, queries=2)
    encoder = Bfloat16(encoder_for(train.problem, generator=torch.Generator().manual_seed(seed))[0])
    fit(
        Prototypical(train.problem, encoder), train, steps=given.first, tasks=1, lr=1e-2, every=500,
        generator=torch.Generator().manual_seed(seed), checkpoint=out / f"first-{seed}.safetensors", resume=True,
    )  # fmt: skip
    encoder.eval()
    with torch.no_grad():
        x = torch.stack([encoder(one.float() / 255) for one in data.classes.x.flatten(0, 1).split(20)])
    return replace(data.classes, x=x)


def judged(method: ActiveMatching, episodes: Episodes, chosen: Tensor, budget: int) -> dict[str, list[float]]:
    """What two predictors make of the chosen labels, and how many classes have one."""
    support = replace(episodes.support, weight=chosen.float())
    known = replace(episodes, support=support)
    method.budget = budget
    covered = (F.one_hot(support.y, WAYS) * chosen.unsqueeze(-1)).amax(1).float().mean(1)
    means = Prototypical(method.problem, nn.Identity())
    return {
        "slow": task_scores(method, known).tolist(),
        "means": task_scores(means, known).tolist(),
        "covered": covered.tolist(),
    }


def run(data: SplitClasses, seed: int, given: argparse.Namespace, out: Path) -> dict:
    """One training run and its test scores, read from its file if it is there."""
    path = out / f"{seed}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    begin = time.process_time()
    classes = embedded(data, seed, given, out)
    family = lambda part: ClassEpisodes(  # noqa: E731
        classes, data.splits[part], ways=WAYS, shots=DRAWINGS, queries=QUERIES
    )
    train = family("train")
    method = ActiveMatching(
        train.problem, nn.Identity(), budget=WAYS, generator=torch.Generator().manual_seed(seed)
    )  # fmt: skip
    history = fit(
        method, train, steps=given.steps, tasks=TASKS, lr=1e-2, every=max(1, given.steps // 10),
        validation=family("val").sample(100, torch.Generator().manual_seed(1)),
        generator=torch.Generator().manual_seed(seed), checkpoint=path.with_suffix(".safetensors"), resume=True,
    )  # fmt: skip
    minutes = (time.process_time() - begin) / 60
    print(f"seed {seed}: validation {[round(s, 4) for s in history.score]}, {minutes:.2f} minutes", flush=True)
    scores: dict[str, dict[str, list[float]]] = {}
    test = family("test").sample(given.episodes, torch.Generator().manual_seed(2))
    for budget in BUDGETS:
        method.budget = budget
        with torch.no_grad():
            chosen = {"learned": method.explore(test.support, lambda score: score.argmax(1)).known}
        for name, pick in PICKS.items():
            chosen[name] = pick(test.support, budget, torch.Generator().manual_seed(3))
        for name, items in chosen.items():
            scores[f"{name}-{budget}"] = found = judged(method, test, items, budget)
            print(f"{budget} labels, {name}: " + ", ".join(f"{what} {np.mean(s):.4f}" for what, s in found.items()))
    result = {"scores": scores, "minutes": minutes, "history": vars(history)}
    write_json(path, result)
    return result


def rows_of(runs: list[dict]) -> list[Row]:
    """What the runs say, beside each other."""
    minutes = round(max(r["minutes"] for r in runs), 1)
    get = lambda name, what: np.array([r["scores"][name][what] for r in runs])  # noqa: E731
    pairs = "computed: the same episodes, in pairs"

    def row(what: str, scores: np.ndarray, target: float, source: str, metric: str = "accuracy") -> Row:
        value: Estimate = estimate(scores, np.ones(scores.shape[1]), np.random.default_rng(0))
        return Row(
            "active-matching", f"Omniglot, frozen embeddings, 10 characters with 4 drawings each in the pool, {what}",
            metric, value.mean, value.low, value.high, value.n, len(runs), target, "higher", source, "cpu", minutes,
            COMMAND,
        )  # fmt: skip

    near = "Bachman et al. 2017 as the lecture tells it: 2 % lost on 10-way 1-shot"
    ours = get("learned-10", "slow")
    best = get("balanced-10", "slow")
    rows = [
        row("10 labels: learned choice", ours, float(best.mean()) - 0.02, f"computed: balanced, less .02. {near}"),
        row("10 labels: learned less balanced choice", ours - best, -0.02, f"{pairs}. {near}"),
    ]
    for other in ("random", "far-first"):
        gain = ours - get(f"{other}-10", "slow")
        rows.append(row(f"10 labels: learned choice, gain over {other}", gain, 0.0, pairs))
    gain = get("learned-10", "means") - get("balanced-10", "means")
    rows.append(row("10 labels, class means answer: learned less balanced choice", gain, -0.02, f"{pairs}. {near}"))
    share, least = get("learned-10", "covered"), get("far-first-10", "covered")
    source = "computed: far-first, the same episodes"
    rows.append(row("10 labels: learned choice", share, float(least.mean()), source, "share of classes with a label"))
    for budget in (5, 20):
        gain = get(f"learned-{budget}", "slow") - get(f"random-{budget}", "slow")
        what = f"{budget} labels (trained with 10): learned choice, gain over random"
        rows.append(row(what, gain, 0.0, pairs))
    return rows


def main() -> None:
    """Train every run that is not there yet, then record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--smoke", action="store_true", help="a few steps, in a folder of their own; records nothing")
    given = parser.parse_args()
    given.first, given.steps, given.episodes = (20, 10, 20) if given.smoke else (FIRST_STEPS, STEPS, EPISODES)
    data = load("omniglot").meet
    assert isinstance(data, SplitClasses)
    out = RUNS / "smoke" if given.smoke else RUNS
    out.mkdir(parents=True, exist_ok=True)
    rows = rows_of([run(data, seed, given, out) for seed in given.seeds])
    for one in rows if given.smoke else record(FOLDER, rows):
        print(one)


if __name__ == "__main__":
    main()
