"""Speed as ratios, measured side by side: python benchmarks/run.py [PART ...]     (all parts: about 15 minutes)

Parts: maml, images, sampling, fit, memory, scaling. Both sides of a ratio run in turns, A B A B, so that what else the
machine does meets both; a ratio is the median over pairs, with its 95 % interval and extremes. The other side of MAML
is a loop over tasks as in learn2learn (loop_maml.py). A step is everything: sample, forward, backward, Adam, checks.
Prints tables, writes results.json and scaling.png here, and the claims to recipes/benchmarks/result.json.

Two of MAML's targets are missed on one thread. Sinusoids compiled, 30 for 40: the loop is faster on one thread (92 ms)
than on two (137 ms, which hand small work over), our program the same (3 ms), so that two threads have 46. Conv4, 1.18
for 1.3: more than half of our step is in convolutions and their gradients (54 % by the profiler), whose arithmetic the
loop has too, and the loop may use PyTorch's fused normalisation (in methods.py, where it may not, the ratio is 2.3).
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from loop_maml import Loss, loop_maml
from scipy.stats import binom
from torch import Tensor, nn

from quickstudy.combine import mean
from quickstudy.core import Method, TaskFamily
from quickstudy.evaluation.claims import Row, hardware, record
from quickstudy.methods import MAML, Prototypical
from quickstudy.nets.basic import MLP, Conv4
from quickstudy.tasks.classes import ClassEpisodes, ClassSet
from quickstudy.tasks.toy import Sinusoids
from quickstudy.training import fit
from quickstudy.training._loop import Descent
from quickstudy.training.checkpoint import write_json
from quickstudy.training.compiled import CompiledLosses

HERE = Path(__file__).parent
CORES = os.cpu_count() or 1
Step = Callable[[], object]
Setup = tuple[TaskFamily, Callable[[], nn.Module], Loss, float]  # family, net, loss, inner step size


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# the two problems


def sinusoid(shots: int = 10) -> Setup:
    """The regression of the MAML paper; the inner step size is small enough for this initialisation."""
    return Sinusoids(shots, 10), lambda: MLP((1, 40, 40, 1), generator()), F.mse_loss, 0.001


class BatchNorm(nn.Module):
    """PyTorch's fused one: the loop may use it, for outside torch.func its second derivative is right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


def images(fused: bool = False) -> Setup:
    """Made-up data of Omniglot's size (6400 classes of 20 images), 5-way 1-shot, 5 queries a class."""
    net = nn.Sequential(Conv4(1, 64, "batch", generator()), nn.Linear(256, 5))
    if fused:
        for i in (1, 4, 7, 10):
            net[0][i] = BatchNorm(64)
    return omniglot_size(ways=5, shots=1, queries=5), lambda: net, F.cross_entropy, 0.4


@cache
def made_up(device: str) -> ClassSet:
    x = torch.randint(256, (6400, 20, 1, 28, 28), dtype=torch.uint8, generator=generator())
    return ClassSet(x, tuple(map(str, range(len(x))))).to(device)


def omniglot_size(device: str = "cpu", **settings: int) -> ClassEpisodes:
    return ClassEpisodes(made_up(device), range(6400), **settings)


# the sides


def looped(problem: Setup, tasks: int, steps: int) -> Step:
    """Task by task; each task's gradient is taken at once, so that one graph lives at a time."""
    family, net, loss, inner_lr = problem[0], problem[1](), problem[2], problem[3]
    optimiser, draw = torch.optim.Adam(net.parameters()), generator()

    def step() -> None:
        optimiser.zero_grad()
        for error in loop_maml(net, loss, family.sample(tasks, draw), steps=steps, inner_lr=inner_lr):
            (error / tasks).backward()
        optimiser.step()

    return step


def batched(problem: Setup, tasks: int, steps: int, compiled: bool = False) -> Step:
    """A step of the library: all tasks at once."""
    family, net, _, inner_lr = problem
    return step_of(MAML(family.problem, net(), inner_lr=inner_lr, steps=steps), family, tasks, compiled)


def step_of(method: Method, family: TaskFamily, tasks: int, compiled: bool = False) -> Step:
    """What fit does each step."""
    draw = generator()
    descent = Descent(method, steps=10**9, lr=1e-3, weight_decay=0.0, generator=draw, checkpoint=None)
    if compiled:
        losses = CompiledLosses(method, mean)
        return lambda: descent.step(0, losses(family.sample(tasks, draw)), None)
    return lambda: descent.step(0, method(family.sample(tasks, draw)), mean)


# the clock


def in_turns(
    sides: dict[str, Step], rounds: int = 40, least: float = 0.05, clock: Callable[[], float] | None = None
) -> dict[str, np.ndarray]:
    """Seconds a step of each side, one entry a round; a turn lasts ``least`` seconds or one step.

    On one thread these are seconds of processor time, which others that use the machine disturb little.
    """
    clock = clock or (time.thread_time if torch.get_num_threads() == 1 else time.perf_counter)
    turn = {}
    for name, step in sides.items():
        step()  # warm up, and compile
        start = clock()
        step()
        turn[name] = max(1, round(least / (clock() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    wait_for_quiet()
    for _ in range(rounds):
        for name, step in sides.items():
            start = clock()
            for _ in range(turn[name]):
                step()
            seconds[name].append((clock() - start) / turn[name])
    return {name: np.array(values) for name, values in seconds.items()}


patience = 600.0  # seconds, over the whole run


def wait_for_quiet() -> None:
    """Wait until others leave the cores alone (where the system tells), as long as patience lasts."""
    global patience
    stat = Path("/proc/stat")

    def idle() -> int:
        return int(stat.read_text().split()[4])

    while stat.is_file():
        before = idle()
        time.sleep(0.5)
        busy = 1 - (idle() - before) / os.sysconf("SC_CLK_TCK") / 0.5 / CORES
        if busy < 0.15:
            return
        if patience <= 0:
            print(f"  (others keep {100 * busy:.0f} % of the machine busy)")
            return
        patience -= 0.5


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median, by the order of the values."""
    ordered, rank = np.sort(values), int(binom.ppf(0.025, len(values), 0.5))
    return float(ordered[rank - 1]), float(ordered[-rank])


def ratio(seconds: dict[str, np.ndarray], over: str, under: str) -> dict[str, float]:
    pairs = seconds[over] / seconds[under]
    low, high = interval(pairs)
    return {
        "median": float(np.median(pairs)),
        "low": low,
        "high": high,
        "min": float(pairs.min()),
        "max": float(pairs.max()),
        "pairs": len(pairs),
    } | {f"ms {name}": float(np.median(seconds[name]) * 1e3) for name in (over, under)}


def show(what: str, r: dict[str, float]) -> None:
    times = ", ".join(f"{key[3:]} {value:.2f} ms" for key, value in r.items() if key.startswith("ms "))
    print(
        f"  {what:<42} {r['median']:7.2f}  [{r['low']:.2f}, {r['high']:.2f}]  min {r['min']:.2f} max {r['max']:.2f}"
        f"   ({times})",
        flush=True,
    )


def claim(what: str, metric: str, r: dict[str, float], target: float, better: str, system: str = "maml") -> Row:
    n = int(r["pairs"])
    value, low, high = r["median"], r["low"], r["high"]
    command = "python benchmarks/run.py"
    return Row(system, what, metric, value, low, high, n, 1, target, better, "issue", "cpu", 0.0, command)  # type: ignore[arg-type]


def child(*arguments: object, **environment: str) -> str:
    """Run this file in a process of its own and give what it printed last."""
    command = [sys.executable, __file__, *map(str, arguments)]
    out = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout
    return out.splitlines()[-1]


# the parts


def maml(found: dict[str, object]) -> list[Row]:
    """Second-order MAML on sinusoids, 25 tasks, 10 shots, 5 inner steps, MLP 1-40-40-1."""
    rows = []
    for threads in sorted({1, CORES}):
        torch.set_num_threads(threads)
        print(f"MAML, sinusoid, {threads} thread(s) on both sides: loop over tasks / ours")
        with_compile = batched(sinusoid(), 25, 5, compiled=True)
        seconds = in_turns(
            {"loop": looped(sinusoid(), 25, 5), "ours": batched(sinusoid(), 25, 5), "compiled": with_compile}
        )
        for name, target in (("ours", 6.0), ("compiled", 40.0)):
            r = ratio(seconds, "loop", name)
            show(name, r)
            found[f"maml {name} {threads}"] = r
            what = f"sinusoid, 25 tasks, 5 steps, {name}, {threads} thread(s): time of a loop over tasks / ours"
            rows.append(claim(what, "ratio", r, target, "higher"))
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (float(child("--first-step", TORCHINDUCTOR_CACHE_DIR=cache)) for _ in range(2))
    print(f"  first compiled step: {cold:.0f} s with an empty cache, {warm:.0f} s with the cache of an earlier run")
    found["compile seconds"] = {"cold": cold, "warm": warm}
    return rows


def image_maml(found: dict[str, object]) -> list[Row]:
    """Second-order MAML on images of 28 x 28, 5-way 1-shot, 16 tasks, 1 inner step, Conv4."""
    rows = []
    for threads in sorted({1, CORES}):
        torch.set_num_threads(threads)
        print(f"MAML, Conv4 28 x 28, 5-way 1-shot, 16 tasks, 1 step, {threads} thread(s): loop over tasks / ours")
        sides = {"loop": looped(images(True), 16, 1), "ours": batched(images(), 16, 1)}
        r = ratio(in_turns(sides, rounds=15), "loop", "ours")
        show("ours", r)
        found[f"images {threads}"] = r
        on = ", 1 thread" if threads == 1 else ""
        what = f"Conv4 28 x 28, 16 tasks, 1 step{on}: time of a loop over tasks / ours"
        rows.append(claim(what, "ratio", r, 1.3, "higher"))
    return rows


def sampling(found: dict[str, object]) -> list[Row]:
    """What share of a training step is spent on drawing its episodes."""
    torch.set_num_threads(CORES)
    print(f"Sampling, 6400 classes of 20 images 28 x 28 (uint8), {CORES} thread(s): per cent of a training step")
    wide, rows = omniglot_size(ways=60, shots=1, queries=5), []
    narrow, net, _, inner_lr = images()
    prototypical = Prototypical(wide.problem, Conv4(1, 64, generator=generator()))
    one_step = MAML(narrow.problem, net(), inner_lr=inner_lr, steps=1)
    for what, family, method, tasks in (
        ("prototypical, 60-way 1-shot, 5 queries", wide, prototypical, 1),
        ("MAML, 5-way 1-shot, 16 tasks", narrow, one_step, 16),
    ):
        draw = generator()
        sides = {"sampling": lambda f=family, n=tasks, g=draw: f.sample(n, g), "step": step_of(method, family, tasks)}
        r = ratio(in_turns(sides, rounds=20), "sampling", "step")
        r |= {key: 100 * r[key] for key in ("median", "low", "high", "min", "max")}
        show(what, r)
        found[f"sampling {what}"] = r
        rows.append(claim(f"{what}: sampling's share of a step", "per cent", r, 2.0, "lower", "episodes"))
    return rows


def fit_itself(found: dict[str, object]) -> list[Row]:
    """What fit adds to sample, forward, backward and Adam."""
    torch.set_num_threads(1)
    print("fit on sinusoids, 1 thread, against a bare loop of sample, forward, backward, Adam: time of fit / bare")
    family, net, _, inner_lr = sinusoid()
    make = lambda: MAML(family.problem, net(), inner_lr=inner_lr, steps=5)  # noqa: E731

    def bare() -> None:
        method, draw = make(), generator()
        optimiser = torch.optim.AdamW(method.parameters(), fused=True)
        for _ in range(20):
            optimiser.zero_grad()
            method(family.sample(25, draw)).mean().backward()
            optimiser.step()

    r = ratio(in_turns({"fit": lambda: fit(make(), family, steps=20, tasks=25), "bare": bare}), "fit", "bare")
    show("20 steps", r)
    found["fit"] = r
    return []


def memory(found: dict[str, object]) -> list[Row]:
    """The most memory that one training step adds, each setting in a process of its own."""
    print("Peak memory that a step adds, MB: loop over tasks, ours, ours in chunks of 4 tasks")
    for what in ("sinusoid", "images"):
        for steps in (1, 5, 10):
            use = {side: float(child("--memory", what, side, steps)) for side in ("loop", "ours", "chunks")}
            print(
                f"  {what:<9} {steps:2d} inner steps  " + "  ".join(f"{k} {v:8.1f}" for k, v in use.items()), flush=True
            )
            found[f"memory {what} {steps}"] = use
    return []


def one_memory(what: str, side: str, steps: int) -> float:
    torch.set_num_threads(1)
    problem, tasks = (sinusoid(), 25) if what == "sinusoid" else (images(side == "loop"), 16)
    if side == "chunks":
        family, net, _, inner_lr = problem
        method, draw = MAML(family.problem, net(), inner_lr=inner_lr, steps=steps), generator()

        def step() -> None:
            for part in family.sample(tasks, draw).chunks(4):
                (method(part).sum() / tasks).backward()

        small: Step = lambda: method(family.sample(1, draw)).sum().backward()  # noqa: E731
    else:
        make = looped if side == "loop" else batched
        step, small = make(problem, tasks, steps), make(problem, 1, 1)
    small()  # the libraries' own buffers
    # getrusage's peak survives exec, so that a child would begin with its parent's: Linux lets a process reset its own
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kb()
    step()
    return (peak_kb() - before) / 1024


def peak_kb() -> int:
    """Most memory that this process has held since it last reset the mark."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def scaling(found: dict[str, object]) -> list[Row]:
    """How a step's time grows, around 25 tasks, 5 inner steps, 10 shots."""
    torch.set_num_threads(1)
    print("Growth on sinusoids, 1 thread, ms a step: loop over tasks, ours")
    axes = {"tasks": (1, 3, 10, 25, 50, 100), "inner steps": (1, 2, 3, 5, 7, 10), "shots": (1, 2, 5, 10, 15, 20)}
    table: dict[str, dict[int, list[float]]] = {}
    for axis, values in axes.items():
        for value in values:
            setting = {"tasks": 25, "inner steps": 5, "shots": 10} | {axis: value}
            problem, tasks, steps = sinusoid(setting["shots"]), setting["tasks"], setting["inner steps"]
            seconds = in_turns({"loop": looped(problem, tasks, steps), "ours": batched(problem, tasks, steps)}, 10)
            both = [float(np.median(seconds[side]) * 1e3) for side in ("loop", "ours")]
            table.setdefault(axis, {})[value] = both
            print(
                f"  {axis:<12} {value:4d}   loop {both[0]:8.2f}   ours {both[1]:7.2f}   ratio {both[0] / both[1]:.1f}",
                flush=True,
            )
    found["scaling"] = table
    draw_scaling(table)
    return []


def draw_scaling(table: dict[str, dict[int, list[float]]]) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for panel, (axis, times) in zip(panels, table.items(), strict=True):
        for i, (name, colour) in enumerate((("loop over tasks", "#b2182b"), ("all tasks at once", "#2166ac"))):
            panel.plot(list(times), [both[i] for both in times.values()], "o-", ms=4, color=colour, label=name)
        panel.set(xlabel=axis, yscale="log", xscale="log" if axis == "tasks" else "linear")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("ms a training step")
    panels[0].legend(frameon=False)
    figure.suptitle(
        "Second-order MAML on sinusoids; elsewhere 25 tasks, 5 inner steps, 10 shots; one thread", fontsize=10
    )
    figure.savefig(HERE / "scaling.png", dpi=130)


PARTS = {
    "maml": maml,
    "images": image_maml,
    "sampling": sampling,
    "fit": fit_itself,
    "memory": memory,
    "scaling": scaling,
}


def main() -> None:
    chosen = sys.argv[1:] or list(PARTS)
    if chosen[0] == "--memory":
        print(one_memory(chosen[1], chosen[2], int(chosen[3])))
        return
    if chosen[0] == "--first-step":
        start = time.perf_counter()
        batched(sinusoid(), 25, 5, compiled=True)()
        print(time.perf_counter() - start)
        return
    unknown = set(chosen) - set(PARTS)
    if unknown:
        sys.exit(f"Expected parts among {', '.join(PARTS)}. Found {', '.join(sorted(unknown))}.")
    print(hardware())
    path = HERE / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in chosen:
        start = time.perf_counter()
        rows = PARTS[name](found)
        minutes = (time.perf_counter() - start) / 60
        found["hardware"] = hardware()
        found[f"minutes {name}"] = minutes
        write_json(path, found)
        record(HERE.parent / "recipes" / "benchmarks", [Row(**(vars(row) | {"minutes": minutes})) for row in rows])


if __name__ == "__main__":
    main()
