"""Every gradient-based method against itself, one task at a time: python benchmarks/methods.py [PART] [METHOD ...]

Parts: small, compiled, images, card; without one, small and images. The other side is the same method, called with one
task after another, each task's gradient taken at once and added up, one Adam step at the end: the loop that a user of
the library would write, with every gain but that of all tasks at once. (MAML against a loop of plain PyTorch, in the
manner of learn2learn, is in run.py.) Each method has its own default net and 5 inner steps (images: 1) where it takes a
number of steps. One thread, processor time, both sides in turns; a ratio is the median over pairs with its 95 %
interval. Part card is images on CUDA, by the clock: the loop's steps as they are, ours captured as one CUDA graph, or
as they are where a method's step cannot be captured.

All sixteen trace as one program: none draws at random in training or looks at a number. Of the other methods
active-matching draws, and cannot be compiled or captured; nets with dropout draw too. Two are refused on small nets
because the program's gradient is not the method's to 1 %: imaml, by a tenth, where float32 is off float64 by a fifth
(on an untrained net; supposed: rounding decides which step lengths Newton takes), and r2d2, by 1.3 % (float32 is off by
.04 %; why the program is off by more was not found). alpaca gains 6 times by compiling, not 40: its factorisations call
back out of the program; and it predicts numbers, so that it has no images to be captured on. lstm-optimizer gains next
to nothing, compiled or not: three quarters of its step are the LSTM's own arithmetic (sigmoid and tanh 48 %, products
24 %, on a cell for each of 25 times 1,761 parameters), which is the same task by task. Other methods' loops spend their
time on launching small operations, and that is what is saved. leo's 27 times, compiled, were not looked into.
Adds to methods.json here and to the claims in recipes/benchmarks/result.json.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from pathlib import Path

import run
import torch
from run import Step, claim, generator, in_turns, omniglot_size, ratio, show, step_of

from quickstudy.core import Method, RunError, TaskFamily
from quickstudy.evaluation.claims import Row, hardware, record
from quickstudy.methods.registry import build, find
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training.checkpoint import write_json

HERE = Path(__file__).parent
METHODS = (
    "maml", "fomaml", "reptile", "anil", "meta-sgd", "mamlpp", "context", "imaml", "lstm-optimizer", "proto-maml",
    "data-conditioned", "leo", "r2d2", "lr-d2", "metaoptnet", "alpaca",
)  # fmt: skip
# their default step size diverges on sinusoids before any training
FIVE_WAY = {"ways": 5, "shots": 1, "queries": 5}
SMALL_RATE = ("maml", "fomaml", "reptile", "meta-sgd", "mamlpp", "lstm-optimizer", "data-conditioned")
TARGETS = {"small": 6.0, "compiled": 40.0, "images": 1.3, "card": 10.0}
TASKS = {"small": 25, "compiled": 25, "images": 16, "card": 16}


def family_for(part: str, name: str) -> tuple[str, TaskFamily]:
    """Sinusoids where the method does regression, else 5-way 1-shot on vectors; or images of Omniglot's size."""
    if part in ("images", "card"):
        return "Conv4 28 x 28, 5-way 1-shot", omniglot_size("cuda" if part == "card" else "cpu", **FIVE_WAY)
    if not find(name).refuses(Sinusoids(10, 10).problem):
        return "sinusoid", Sinusoids(10, 10)
    x = torch.randn(100, 20, 16, generator=generator())
    vectors = ClassSet(x, tuple(map(str, range(100))))
    return "vectors of 16, 5-way 1-shot", ClassEpisodes(vectors, range(100), ways=5, shots=1, queries=5)


def made(part: str, name: str, family: TaskFamily) -> Method:
    """The method with its default net."""
    cls = find(name)
    images = part in ("images", "card")
    settings = {"steps": 1 if images else 5} if "steps" in inspect.signature(cls).parameters else {}
    rate = {"inner_lr": 0.001} if name in SMALL_RATE and not images else {}
    return build(cls, family.problem, 0, **settings, **rate).to("cuda" if part == "card" else "cpu")


def one_by_one(method: Method, family: TaskFamily, tasks: int) -> Step:
    """A training step in which the method sees one task after another."""
    draw = generator()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        optimiser.zero_grad()
        for one in family.sample(tasks, draw).chunks(1):
            (method(one).sum() / tasks).backward()
        optimiser.step()

    return step


def measure(part: str, name: str) -> tuple[str, dict[str, float]]:
    """What was measured, and its ratio."""
    what, family = family_for(part, name)
    tasks = TASKS[part]
    loop = one_by_one(made(part, name, family), family, tasks)
    ours = step_of(made(part, name, family), family, tasks, part == "compiled")
    how = "compiled, 1 thread" if part == "compiled" else "1 thread"
    if part == "card":
        how, loop = torch.cuda.get_device_name(), through(loop)
        try:
            captured = step_of(made(part, name, family), family, tasks, True)
            captured()
            ours, how = through(captured), f"captured, {how}"
        except RunError as error:
            print(f"  {name}: {str(error)[:300]}", flush=True)
            ours = through(ours)
    loop()
    start = time.perf_counter()
    loop()
    rounds = min(15, max(6, round(6 / (time.perf_counter() - start))))
    taken = in_turns({"loop": loop, "ours": ours}, rounds, clock=time.perf_counter if part == "card" else None)
    return f"{what}, {tasks} tasks, {how}: time of the same method task by task / ours", ratio(taken, "loop", "ours")


def through(step: Step) -> Step:
    """The step until the card is through with it."""

    def whole() -> None:
        step()
        torch.cuda.synchronize()

    return whole


def main() -> None:
    """Measure, record."""
    run.patience = 10.0
    torch.set_num_threads(1)
    parts = [word for word in sys.argv[1:] if word in TARGETS] or ["small", "images"]
    names = [word for word in sys.argv[1:] if word not in TARGETS] or METHODS
    unknown = set(names) - set(METHODS)
    if unknown:
        sys.exit(
            f"Expected parts of {', '.join(TARGETS)}, methods of {', '.join(METHODS)}. Found {', '.join(unknown)}."
        )
    print(hardware())
    path = HERE / "methods.json"
    for part in parts:
        for name in names:
            start = time.perf_counter()
            try:
                what, r = measure(part, name)
            except RuntimeError as error:  # this method's step does not run there: the others' may
                print(f"  {name}: {str(error)[:300]}", flush=True)
                continue
            show(f"{name} {part}", r)
            minutes = (time.perf_counter() - start) / 60
            row = claim(what, "ratio", r, TARGETS[part], "higher", name)
            command = f"python benchmarks/methods.py {part} {name}"
            facts = {"minutes": minutes, "command": command, "tier": "full" if part == "card" else "cpu"}
            record(HERE.parent / "recipes" / "benchmarks", [Row(**(vars(row) | facts))])
            found = json.loads(path.read_text()) if path.is_file() else {}
            write_json(path, found | {"hardware": hardware(), f"{part} {name}": r})


if __name__ == "__main__":
    main()
