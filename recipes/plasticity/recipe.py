"""What learned plasticity is good for: completing patterns and images, finding a target by reward, returning to one.

    python recipes/plasticity/recipe.py [patterns] [images] [cues] [maze]      # no name: all four
    python recipes/plasticity/recipe.py "cues/modulated"                       # train one stage's net, write no row

Every stage trains each net from several seeds and tests it on tasks that it has not seen. A killed recipe goes on
where it was: a finished run is a file in ``runs/plasticity``. All four are smaller than in the papers, and shorter:

- patterns: 50 elements for 1000, 3 patterns for 5; the nets that are not plastic get three times the training tasks;
- images: scikit-learn's 8 x 8 digits for CIFAR-10's in grey, shown once for 3 steps where the authors' are shown three
  times for 20; tested on digits that are in no training task. 0 explained is what the mean training image explains;
- cues: 10 bits for 20, 10 trials a task for about 18; pairs, as published. And the outer loop is told the right answers
  (cross-entropy; the published one learns from reward by actor-critic). The net itself sees rewards only;
- maze: 5 x 5 for 9 x 9, 40 steps for 200; by actor-critic, as published.

Minutes are the processor's, on one thread. Rates: for patterns and images each net has its own, chosen on its training
loss; for cues and the maze all have one, at which the plastic nets' training loss fell in short runs.

An earlier cue task had one cue a trial, told the reward beside the next trial's cue, and began with w of spectral
radius 1 and alpha 0.2. The modulated net stayed at chance (.50), one retroactive seed of three failed, and the
non-plastic net reached .69. Looked at, after 400 steps of training: M was .6 to .85 at every step of a task, .7 of Hebb
lay at its bound after 18 steps, and gradients had norms of 5 to 77, clipped to noise. The reward on a step of its own,
as the authors have it, did not help by itself (loss still at chance, norms of 49 to 69); with w at 0.1 and alpha at
0.02 besides, norms fell under 1 and the modulated net was right in .98 of the late trials after 500 steps of 32 tasks.
One cue a trial is too easy: a non-plastic net can remember one cue (.60 after 500 steps and rising). With pairs, no
trial names the target; so pairs are back, and M is largest where it should be: about .5 on the sign to answer and on
the reward, .1 on cues.

In the maze the modulated net falls behind: after half of the training its rewards stop at 11 of the plain plastic net's
15 and then fall (figure), at the rate that all share. Lower ones, tried on one seed's training rewards: at 2e-3 it
comes to 11.7 (10.7 at 5e-3) and, trained twice as long, to 14.7 without a fall; at 1e-3 it is slower still (8.4 at
best). The plain net has 15.6 at 5e-3 in the single length. So 5e-3 is too large for the modulated net, and what these
rows compare is how fast each learns at one rate; that it would end ahead is not shown. No interval of the maze excludes
zero: three seeds of 19,200 tasks show no order.

Patterns miss their bar by .01 (.939 for .95). Not for lack of training: twice as long came to .949 (one seed, tasks of
its own). The pattern shown last is restored to .971, the two before it to .917 each: Hebb's trace fades, and the sum of
outer products, which does not, restores .9999 of the same tasks. Cue recall: two of three plain plastic nets come to
.77, so neither their failing nor the modulated nets' advantage is certain (mean .68 [.28, 1.07]); retroactive nets, at
.894 [.861, .927], have the bar of .9 in their interval. That each weight has its own strength gains nothing on patterns
(.002 [-.016, .020]), nor plasticity over the LSTM on images for certain (.025 [-.019, .069]).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from quickstudy.evaluation.claims import Row, read, record
from quickstudy.nets.plastic import Alpha, PlasticRNN
from quickstudy.tasks.plastic import CueReward, GridMaze, ImageCompletion, PatternCompletion
from quickstudy.training.checkpoint import write_json

Result = dict[str, Any]

FOLDER, RUNS = Path(__file__).parent, Path("runs/plasticity")
SEEDS, TEST = 3, 1000
RATES = (1e-3, 3e-3, 1e-2)  # patterns and images: each net's own, on training loss
PATTERNS, PATTERN_STEPS, PATTERN_TASKS = PatternCompletion(size=50, patterns=3), 700, 32
IMAGE_STEPS, IMAGE_TASKS = 800, 16
MORE = 3  # times as many training tasks for the nets that are not plastic, whose steps are cheap
CUES, CUE_STEPS, CUE_TASKS, CUE_RATE = CueReward(bits=10, cues=4, trials=10, shown=2), 1000, 32, 5e-3
LATE = 4  # trials at the end that count: by then most cues have been met
MAZE, MAZE_STEPS, MAZE_TASKS, MAZE_TIME, MAZE_RATE = GridMaze(5), 600, 32, 40, 5e-3
WIDTH = 32
LECTURE = "Miconi et al. 2018, arXiv:1804.02464"
FASTER = f"{LECTURE}, as an author's lecture sums it up: the plastic net learns far faster"
COLOURS = ("#c4572e", "#3b6ea5", "#6aa84f", "0.5", "#8e6bb0")
MODULATED = "Miconi et al. 2019, arXiv:2002.10585"


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LSTM(nn.Module):
    """An LSTM cell with the plastic net's verbs. All weights uniform within ``width**-0.5``."""

    def __init__(self, inputs: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.cell, self.width = nn.LSTMCell(inputs, width), width
        for value in self.cell.parameters():
            nn.init.uniform_(value, -(width**-0.5), width**-0.5, generator=generator)

    def start(self, n_tasks: int) -> tuple[Tensor, Tensor]:
        zero = self.cell.weight_hh.new_zeros(n_tasks, self.width)
        return zero, zero

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = self.cell(x, memory)
        return h, (h, c)


class WithHeads(nn.Module):
    """A recurrent net and linear readouts of its activity, one a name."""

    def __init__(self, net: nn.Module, width: int, heads: dict[str, int], generator: torch.Generator) -> None:
        super().__init__()
        self.net, self.heads = net, nn.ModuleDict({name: nn.Linear(width, n) for name, n in heads.items()})
        for head in self.heads.values():
            nn.init.normal_(head.weight, std=0.1 * width**-0.5, generator=generator)
            nn.init.zeros_(head.bias)


def size(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def train(net: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float) -> list[float]:
    """Adam on one loss a step, gradients clipped at norm 4. Gives the losses."""
    optimiser, losses = torch.optim.Adam(net.parameters(), lr), []
    for _ in range(steps):
        value = loss()
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 4.0)
        optimiser.step()
        losses.append(float(value.detach()))
    return losses


def best_rate(folder: Path, kind: str, run: Callable[[float, int], list[float]], steps: int) -> float:
    """The rate of RATES whose training loss is least after a third of the steps, on a seed that is not used again."""
    path = folder / f"{kind.replace(' ', '-')}-rate.json"
    if not path.is_file():
        ends = {}
        for rate in RATES:
            losses = run(rate, steps // 3)
            ends[rate] = sum(losses[-len(losses) // 5 :])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(min(ends, key=lambda rate: ends[rate])))
    return float(json.loads(path.read_text()))


# ---- patterns and images


def completing_net(kind: str, n: int, seed: int, *, hold: bool) -> nn.Module:
    """For n elements. Images are graded, so their plastic net holds what is given; patterns drive it hard."""
    if kind == "LSTM":
        return WithHeads(LSTM(n, n, gen(seed)), n, {"answer": n}, gen(50 + seed))
    if kind == "non-plastic RNN":  # with layers of its own for input and output: not fewer weights
        net = PlasticRNN(n, n, alpha="none", scale=n**-0.5, generator=gen(seed))
        return WithHeads(net, n, {"answer": n}, gen(50 + seed))
    alpha: Alpha = "uniform" if kind == "uniform alpha" else "free"
    return PlasticRNN(n, n, clamp=None if hold else 20.0, hold=hold, alpha=alpha, eta=0.1, generator=gen(seed))


def restore(net: nn.Module, x: Tensor) -> Tensor:
    """What the net says at the last step. Shape: ``[T, time, size]`` to ``[T, size]``."""
    heads = isinstance(net, WithHeads)
    cell = net.net if heads else net
    memory = cell.start(len(x))
    for step in x.unbind(1):
        h, memory = cell(step, memory)
    return torch.tanh(net.heads["answer"](h)) if heads else h


def complete(stage: str, kind: str, seed: int) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A trained net, and on test tasks: what it was shown, what it says, the truth, what was zeroed."""
    images = stage == "images"
    train_task, test_task = digits() if images else (PATTERNS, PATTERNS)
    n = train_task.sample(1, gen(0))[1].shape[1]
    steps, tasks = (IMAGE_STEPS, IMAGE_TASKS) if images else (PATTERN_STEPS, PATTERN_TASKS)
    steps *= MORE if kind in ("LSTM", "non-plastic RNN") else 1

    def learn(seed: int, rate: float, steps: int) -> tuple[nn.Module, list[float]]:
        net, draw = completing_net(kind, n, seed, hold=images), gen(1000 + seed)

        def loss() -> Tensor:
            x, target, hidden = train_task.sample(tasks, draw)
            return ((restore(net, x) - target).square() * hidden).sum() / hidden.sum()

        return net, train(net, loss, steps, rate)

    rate = best_rate(RUNS / stage, kind, lambda rate, steps: learn(99, rate, steps)[1], steps)
    net, _ = learn(seed, rate, steps)
    with torch.no_grad():
        x, target, hidden = test_task.sample(TEST, gen(9))
        return net, x, restore(net, x), target, hidden


def pattern_run(kind: str, seed: int) -> Result:
    net, _, said, target, hidden = complete("patterns", kind, seed)
    right = ((said.sign() == target) & hidden).sum() / hidden.sum()
    return {"right": float(right), "parameters": size(net)}


def digits() -> tuple[ImageCompletion, ImageCompletion]:
    """Completion of scikit-learn's 8 x 8 digits; the images of the second are not in the first."""
    images = torch.from_numpy(load_digits().images)
    images = images[torch.randperm(len(images), generator=gen(3))]
    return ImageCompletion(images[:1400]), ImageCompletion(images[1400:])


def image_run(kind: str, seed: int) -> Result:
    net, x, said, target, hidden = complete("images", kind, seed)
    # the best constant: every pixel's mean over training images
    constant = digits()[0].pixels.mean(0)
    error, base = (((guess - target).square() * hidden).sum() / hidden.sum() for guess in (said, constant))
    shown = torch.stack([x[:, 0], x[:, 4], x[:, 8], x[:, -1], torch.where(hidden, said, target), target], 1)[:4]
    return {
        "explained": float(1 - error / base),
        "error": float(error),
        "parameters": size(net),
        "pictures": [[[round(v, 2) for v in image] for image in task] for task in shown.tolist()],
    }


# ---- cues


def plastic_net(kind: str, inputs: int, seed: int) -> PlasticRNN:
    """The nets of the cue task and the maze; all begin alike, w with deviation 0.1 and alpha 0.02 on average."""
    options = {
        "non-plastic RNN": {"alpha": "none"},
        "alpha per weight": {"rule": "clip"},
        "uniform alpha": {"rule": "clip", "alpha": "uniform"},
        "modulated": {"modulation": "simple"},
        "retroactive": {"modulation": "retroactive", "eta": 0.5},
        "retroactive, uniform alpha": {"modulation": "retroactive", "eta": 0.5, "alpha": "uniform"},
    }[kind]
    return PlasticRNN(inputs, WIDTH, scale=0.1, strength=0.02, generator=gen(seed), **options)


def cue_net(kind: str, seed: int) -> WithHeads:
    inputs = CUES.bits + 1 + 3  # cue, sign to answer, reward, answer
    return WithHeads(plastic_net(kind, inputs, seed), WIDTH, {"answer": 2}, gen(50 + seed))


def answers(net: WithHeads, pair: Tensor, answer: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Play all trials: the logits ``[T, trials, 2]`` and whether the answers were right ``[T, trials]``."""
    n, memory = len(pair), net.net.start(len(pair))
    nothing = pair.new_zeros(n, CUES.bits + 4)
    ask = nothing.index_fill(1, torch.tensor([CUES.bits]), 1.0)
    logits, rewards = [], []
    for t in range(CUES.trials):
        for i in range(CUES.shown):
            _, memory = net.net(F.pad(pair[:, t, i], (0, 4)), memory)
        h, memory = net.net(ask, memory)
        out = net.heads["answer"](h)
        said = torch.multinomial(out.detach().softmax(-1), 1, generator=draw).squeeze(1)
        right = (said == answer[:, t]).float()
        # the reward, 1 or -1, and what was answered: on a step of their own
        told = torch.cat([nothing[:, : CUES.bits + 1], 2 * right.unsqueeze(1) - 1, F.one_hot(said, 2)], 1)
        _, memory = net.net(told, memory)
        logits.append(out)
        rewards.append(right)
    return torch.stack(logits, 1), torch.stack(rewards, 1)


def cue_run(kind: str, seed: int) -> Result:
    net, draw = cue_net(kind, seed), gen(1000 + seed)

    def loss() -> Tensor:
        pair, answer = CUES.sample(CUE_TASKS, draw)
        return F.cross_entropy(answers(net, pair, answer, draw)[0].flatten(0, 1), answer.flatten())

    losses = train(net, loss, CUE_STEPS, CUE_RATE)
    with torch.no_grad():
        draw = gen(9)
        right = answers(net, *CUES.sample(TEST, draw), draw)[1]
    return {
        "late": float(right[:, -LATE:].mean()),
        "parameters": size(net),
        "by trial": right.mean(0).tolist(),
        "curve": binned(losses),
    }


# ---- maze


def maze_net(kind: str, seed: int) -> WithHeads:
    inputs, heads = 9 + 1 + 4, {"action": 4, "value": 1}  # walls, last reward, last action
    if kind == "LSTM":
        return WithHeads(LSTM(inputs, WIDTH, gen(seed)), WIDTH, heads, gen(50 + seed))
    return WithHeads(plastic_net(kind, inputs, seed), WIDTH, heads, gen(50 + seed))


def walk(net: WithHeads, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """n agents through their mazes: log-probabilities, entropies, values, rewards, squares: all ``[T, time]``."""
    goal, at, memory = MAZE.sample(n, draw), MAZE.place(n, draw), net.net.start(n)
    told, kept = torch.zeros(n, 5), []
    for _ in range(MAZE_TIME):
        h, memory = net.net(torch.cat([MAZE.see(at), told], 1), memory)
        log_pi = F.log_softmax(net.heads["action"](h), -1)
        action = torch.multinomial(log_pi.detach().exp(), 1, generator=draw)
        was = at
        at, reward = MAZE.step(at, action.squeeze(1), goal, draw)
        told = torch.cat([reward.unsqueeze(1), F.one_hot(action.squeeze(1), 4)], 1)
        entropy = -(log_pi.exp() * log_pi).sum(-1)
        kept.append((log_pi.gather(1, action).squeeze(1), entropy, net.heads["value"](h).squeeze(1), reward, was))
    log_prob, entropy, value, reward, squares = (torch.stack(each, 1) for each in zip(*kept, strict=True))
    return log_prob, entropy, value, reward, squares


def maze_run(kind: str, seed: int) -> Result:
    net, draw = maze_net(kind, seed), gen(1000 + seed)
    found: list[float] = []

    def loss() -> Tensor:
        log_prob, entropy, value, reward, _ = walk(net, MAZE_TASKS, draw)
        found.append(float(reward.sum(1).mean()))
        gain, gains = torch.zeros(MAZE_TASKS), []
        for step in reversed(reward.unbind(1)):
            gain = step + 0.9 * gain
            gains.append(gain)
        advantage = torch.stack(gains[::-1], 1) - value
        return (-log_prob * advantage.detach() + 0.1 * advantage.square() - 0.02 * entropy).mean()

    train(net, loss, MAZE_STEPS, MAZE_RATE)
    with torch.no_grad():
        reward, squares = walk(net, TEST, gen(9))[3:]
    return {
        "reward": float(reward.sum(1).mean()),
        "parameters": size(net),
        "curve": binned(found),
        "by step": reward.mean(0).tolist(),
        "squares": squares[:4].tolist(),
        "rewards": reward[:4].int().tolist(),
    }


def binned(values: list[float], bins: int = 30) -> list[float]:
    """Means of stretches of equal length."""
    each = len(values) // bins
    return torch.tensor(values[: bins * each]).view(bins, each).mean(1).tolist()


STAGES: dict[str, tuple[Callable[[str, int], Result], tuple[str, ...], str]] = {
    "patterns": (pattern_run, ("alpha per weight", "uniform alpha", "non-plastic RNN", "LSTM"), "right"),
    "images": (image_run, ("alpha per weight", "uniform alpha", "non-plastic RNN", "LSTM"), "explained"),
    "cues": (
        cue_run,
        ("retroactive", "modulated", "alpha per weight", "non-plastic RNN", "retroactive, uniform alpha"),
        "late",
    ),
    "maze": (maze_run, ("modulated", "alpha per weight", "uniform alpha", "non-plastic RNN", "LSTM"), "reward"),
}


def runs(stage: str, kinds: tuple[str, ...] = ()) -> dict[str, list[Result]]:
    """What every seed of each net gave; a run that has a file is read, not trained."""
    run, every, key = STAGES[stage]
    found: dict[str, list[Result]] = {kind: [] for kind in kinds or every}
    for seed in range(SEEDS):
        for kind in found:
            path = RUNS / stage / f"{kind.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not path.is_file():
                begin = time.process_time()  # one thread: what the wall clock says where nothing else runs
                result = run(kind, seed) | {"minutes": (time.process_time() - begin) / 60}
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".part").write_text(json.dumps(result))
                path.with_suffix(".part").replace(path)  # whole or not at all
            found[kind].append(json.loads(path.read_text()))
            print(f"{stage} {seed} {kind}: {found[kind][-1][key]:.3f}", flush=True)
    return found


class Scores:
    """A stage's scores by net and seed, and the rows made from them."""

    def __init__(self, stage: str, where: str, metric: str) -> None:
        self.stage, self.where, self.metric, self.found = stage, where, metric, runs(stage)
        key = STAGES[stage][2]
        self.score = {kind: torch.tensor([r[key] for r in each]) for kind, each in self.found.items()}
        self.minutes = {kind: sum(r["minutes"] for r in each) for kind, each in self.found.items()}

    def of(self, kind: str, target: float, source: str, better: str = "higher") -> Row:
        """One net's mean over seeds with Student's interval."""
        what = f"{kind} ({self.found[kind][0]['parameters']} weights)"
        return self._row(what, self.metric, self.score[kind], target, source, self.minutes[kind], better)

    def gap(self, a: str, b: str, source: str) -> Row:
        """By how much a net is ahead of another, paired by seed."""
        what, x = f"{a} less {b}", self.score[a] - self.score[b]
        return self._row(what, f"{self.metric}, paired by seed", x, 0.0, source, self.minutes[a] + self.minutes[b])

    def _row(
        self, what: str, metric: str, x: Tensor, target: float, source: str, minutes: float, better: str = "higher"
    ) -> Row:
        quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(x)]
        mean, half = float(x.mean()), quantile * float(x.std()) / len(x) ** 0.5
        print(f"{self.stage}, {what}: {mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]")
        return Row(
            "plasticity", f"{self.where}: {what}", metric, mean, mean - half, mean + half, n=TEST, seeds=len(x),
            target=target, better=better, source=source, tier="cpu", minutes=minutes,
            command=f"python recipes/plasticity/recipe.py {self.stage}",
        )  # fmt: skip


OURS = "this recipe's own bar; no published figure is for this size"


def patterns() -> list[Row]:
    """Plastic against the two that must hold patterns in their activity."""
    got = Scores(
        "patterns",
        f"{PATTERNS.patterns} patterns of {PATTERNS.size}, {PATTERN_STEPS * PATTERN_TASKS} training tasks, "
        f"{MORE} times as many where not plastic, zeroed elements",
        "accuracy",
    )
    return [
        got.of("alpha per weight", 0.95, OURS),
        got.gap("alpha per weight", "LSTM", FASTER),
        got.gap("alpha per weight", "non-plastic RNN", FASTER),
        got.gap("alpha per weight", "uniform alpha", f"{LECTURE}: a strength for each weight is to be better"),
    ]


def images() -> list[Row]:
    """The zeroed half of an unseen digit."""
    got = Scores(
        "images",
        f"half of one of 3 unseen 8 x 8 digits, {IMAGE_STEPS * IMAGE_TASKS} training tasks, "
        f"{MORE} times as many where not plastic",
        "share of variance explained",
    )
    draw_images(got.found)
    return [
        got.of("alpha per weight", 0.5, OURS),
        got.gap("alpha per weight", "LSTM", f"{LECTURE}, section 4.2: the plastic net solves it, others do not"),
        got.gap("alpha per weight", "non-plastic RNN", f"{LECTURE}, section 4.2"),
        got.gap("alpha per weight", "uniform alpha", f"{LECTURE}, section 4.2"),
    ]


def cues() -> list[Row]:
    """Modulated nets should find the target; the others should not."""
    got = Scores(
        "cues",
        f"target among {CUES.cues} cues of {CUES.bits} bits by reward, pairs, {CUE_STEPS * CUE_TASKS} training tasks, "
        f"last {LATE} of {CUES.trials} trials",
        "accuracy",
    )
    learns, fails = (f"this recipe's own bar; {MODULATED}, figure 1: {what}" for what in ("learns", "fails"))
    return [
        got.of("retroactive", 0.9, learns),
        got.of("modulated", 0.9, learns),
        got.of("alpha per weight", 0.6, fails, "lower"),
        got.of("non-plastic RNN", 0.6, fails, "lower"),
        got.gap("retroactive", "alpha per weight", MODULATED),
        got.gap("modulated", "alpha per weight", MODULATED),
        got.gap("retroactive", "retroactive, uniform alpha", "the issue asks for it; no published figure"),
    ]


def maze() -> list[Row]:
    """More reward with a strength for each weight than with one for all; most with modulation."""
    got = Scores(
        "maze",
        f"{MAZE.side} x {MAZE.side} maze, {MAZE_TIME} steps, {MAZE_STEPS * MAZE_TASKS} training tasks",
        "found rewards",
    )
    draw_maze(got.found)
    return [
        got.gap("alpha per weight", "uniform alpha", LECTURE),
        got.gap("alpha per weight", "non-plastic RNN", LECTURE),
        got.gap("modulated", "alpha per weight", MODULATED),
        got.gap("modulated", "non-plastic RNN", MODULATED),
        got.gap("modulated", "LSTM", "an author's lecture names LSTM (RL2) as a baseline; no figure"),
    ]


# ---- figures


def draw_images(found: dict[str, list[Result]]) -> None:
    """Two tasks: what was shown, the half, what three nets make of it, the truth."""
    columns = ("shown", "shown", "shown", "given", *(kind for kind in found if kind != "non-plastic RNN"), "truth")
    figure = Figure((1.1 * len(columns), 2.8), layout="constrained")
    panels = figure.subplots(2, len(columns))
    for task, line in enumerate(panels):
        for axes, column in zip(line, range(len(columns)), strict=True):
            name = columns[column]
            pictures = found.get(name, found["alpha per weight"])[0]["pictures"][task]
            picture = pictures[column if column < 4 else 4 if name in found else 5]
            axes.imshow(torch.tensor(picture).view(8, 8), cmap="gray_r", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            if task == 0:
                axes.set_title(name, fontsize=8)
    figure.savefig(FOLDER / "images.png", dpi=120, metadata={"Software": None})


def draw_maze(found: dict[str, list[Result]]) -> None:
    """Learning curves; reward by step after training; one trained agent's way."""
    figure = Figure((10.5, 3.2), layout="constrained")
    curve, step, way = figure.subplots(1, 3, width_ratios=(1.3, 1.3, 1))
    for (kind, each), colour in zip(found.items(), COLOURS, strict=True):
        y = torch.tensor([r["curve"] for r in each])
        x = (torch.arange(y.shape[1]) + 0.5) * MAZE_STEPS * MAZE_TASKS / y.shape[1] / 1000
        curve.plot(x, y.mean(0), color=colour, label=kind)
        curve.fill_between(x, y.amin(0), y.amax(0), color=colour, alpha=0.15, linewidth=0)
        rate = torch.tensor([r["by step"] for r in each]).mean(0)
        step.plot(torch.arange(2, len(rate) - 2), rate.unfold(0, 5, 1).mean(1), color=colour)
    curve.set(xlabel="training tasks (thousands)", ylabel=f"rewards in {MAZE_TIME} steps", title="learning")
    curve.legend(frameon=False, fontsize=8)
    step.set(xlabel="step of a task", ylabel="rewards a step", title="after training, unseen tasks")
    first = found["modulated"][0]
    squares, rewards = first["squares"][0], first["rewards"][0]
    way.imshow(MAZE.walls.view(MAZE.side, MAZE.side), cmap="gray_r", vmax=1.6)
    at = torch.tensor(squares)
    spread = torch.linspace(-0.25, 0.25, len(at))  # so that a square's visits lie beside each other
    way.scatter(at % MAZE.side + spread, at // MAZE.side + spread, c=torch.arange(len(at)), s=14, cmap="viridis")
    for t, got in enumerate(rewards):
        if got and t + 1 < len(at):
            way.annotate(
                str(t), (float(at[t] % MAZE.side + spread[t]), float(at[t] // MAZE.side + spread[t])), fontsize=7
            )
    way.set(xticks=[], yticks=[])
    way.set_title("a modulated agent's way, dark first;\nnumbers: steps that reached the reward", fontsize=8)
    with rc_context({"svg.hashsalt": "plasticity", "svg.fonttype": "none"}):
        figure.savefig(FOLDER / "maze.svg", metadata={"Date": None})


def main() -> None:
    """Train what is not trained yet, test, record; stage by stage. ``stage/net`` trains only."""
    torch.set_num_threads(1)
    stages = {"patterns": patterns, "images": images, "cues": cues, "maze": maze}
    for name in sys.argv[1:] or list(stages):
        stage, _, kind = name.partition("/")
        if kind:
            runs(stage, (kind,))
        else:
            rows, path = stages[stage](), FOLDER / "result.json"
            # a stage's rows take the place of all its earlier ones: a row of another set-up would stay beside them
            others = [row for row in (read(path) if path.is_file() else []) if row.command != rows[0].command]
            write_json(path, [asdict(row) for row in others])
            record(FOLDER, rows)


if __name__ == "__main__":
    main()
