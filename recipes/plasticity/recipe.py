"""What learned plasticity is good for: completing patterns, finding a target by reward, returning to a reward.

    python recipes/plasticity/recipe.py [patterns] [cues] [maze]      # no name: all three

Every stage trains each net from several seeds and tests it on tasks that it has not seen. A killed recipe goes on
where it was: a finished run is a file in ``runs/plasticity``. All three are smaller than in the papers, and shorter:

- patterns: 50 elements for 1000, 3 patterns for 5; the nets that are not plastic get five times the training tasks;
- cues: 4 of 10 bits for 20, one a trial for pairs, 10 trials a task; and the outer loop is told the right answers
  (cross-entropy; the published one learns from reward by actor-critic). The net itself sees rewards only. With pairs of
  20 bits the modulated net learned nothing in 500 steps of 64 tasks. Rate and first strengths were chosen on the
  retroactive net's training loss; all nets have them;
- maze: 7 x 7 for 9 x 9, 60 steps for 200; by actor-critic, as published. Not measured yet: no row is on record.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.evaluation.claims import Row, record
from quickstudy.nets.plastic import PlasticRNN
from quickstudy.tasks.plastic import CueReward, GridMaze, PatternCompletion

RUNS = Path("runs/plasticity")
SEEDS, TEST = 3, 1000
PATTERNS, PATTERN_STEPS, PATTERN_TASKS = PatternCompletion(size=50, patterns=3), 400, 32
MORE = 5  # times as many training tasks for the nets that are not plastic, whose steps are cheap
CUES, CUE_STEPS, CUE_TASKS = CueReward(bits=10, cues=4, trials=10, shown=1), 600, 32
LATE = 4  # trials at the end that count: by then most cues have been met
MAZE, MAZE_STEPS, MAZE_TASKS, MAZE_TIME = GridMaze(7), 400, 64, 60
WIDTH = 40
LECTURE = "Miconi et al. 2018, arXiv:1804.02464"
FASTER = f"{LECTURE}, as an author's lecture sums it up: the plastic net learns far faster"
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


# ---- patterns


def pattern_net(kind: str, seed: int) -> nn.Module:
    n = PATTERNS.size
    if kind == "LSTM":
        return WithHeads(LSTM(n, n, gen(seed)), n, {"answer": n}, gen(50 + seed))
    if kind == "non-plastic RNN":  # with layers of its own for input and output: not fewer weights
        net = PlasticRNN(n, n, alpha="none", scale=n**-0.5, generator=gen(seed))
        return WithHeads(net, n, {"answer": n}, gen(50 + seed))
    return PlasticRNN(n, n, clamp=20.0, alpha="free", eta=0.1, generator=gen(seed))


def restore(net: nn.Module, x: Tensor) -> Tensor:
    """What the net says at the last step. Shape: ``[T, time, size]`` to ``[T, size]``."""
    heads = isinstance(net, WithHeads)
    cell = net.net if heads else net
    memory = cell.start(len(x))
    for step in x.unbind(1):
        h, memory = cell(step, memory)
    return torch.tanh(net.heads["answer"](h)) if heads else h


def pattern_run(kind: str, seed: int) -> dict[str, float]:
    net, draw = pattern_net(kind, seed), gen(1000 + seed)

    def loss() -> Tensor:
        x, target, hidden = PATTERNS.sample(PATTERN_TASKS, draw)
        return ((restore(net, x) - target).square() * hidden).sum() / hidden.sum()

    train(net, loss, PATTERN_STEPS if kind == "plastic RNN" else MORE * PATTERN_STEPS, 3e-3)
    with torch.no_grad():
        x, target, hidden = PATTERNS.sample(TEST, gen(9))
        right = ((restore(net, x).sign() == target) & hidden).sum() / hidden.sum()
    return {"right": float(right), "parameters": size(net)}


# ---- cues


def cue_net(kind: str, seed: int) -> WithHeads:
    inputs = CUES.bits + 1 + 3  # cue, sign to answer, last reward, last answer
    if kind == "non-plastic RNN":
        net = PlasticRNN(inputs, WIDTH, alpha="none", scale=WIDTH**-0.5, generator=gen(seed))
    else:
        modulation = {"plastic RNN": "none", "modulated RNN": "simple", "retroactive RNN": "retroactive"}[kind]
        net = PlasticRNN(
            inputs,
            WIDTH,
            rule="clip",
            modulation=modulation,
            eta=0.5,
            scale=WIDTH**-0.5,
            strength=0.2,
            generator=gen(seed),
        )
    return WithHeads(net, WIDTH, {"answer": 2}, gen(50 + seed))


def answers(net: WithHeads, pair: Tensor, answer: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Play all trials: the logits ``[T, trials, 2]`` and the rewards ``[T, trials]``."""
    n, memory = len(pair), net.net.start(len(pair))
    told = pair.new_zeros(n, 3)  # the answer's reward and the answer itself, seen with the first cue after it
    nothing = pair.new_zeros(n, CUES.bits + 4)
    logits, rewards = [], []
    for t in range(CUES.trials):
        for i in range(CUES.shown):
            _, memory = net.net(torch.cat([pair[:, t, i], pair.new_zeros(n, 1), told], 1), memory)
            told = torch.zeros_like(told)
        h, memory = net.net(nothing.index_fill(1, torch.tensor([CUES.bits]), 1.0), memory)
        out = net.heads["answer"](h)
        said = torch.multinomial(out.detach().softmax(-1), 1, generator=draw).squeeze(1)
        reward = (said == answer[:, t]).float()
        told = torch.cat([reward.unsqueeze(1), F.one_hot(said, 2)], 1)
        logits.append(out)
        rewards.append(reward)
    return torch.stack(logits, 1), torch.stack(rewards, 1)


def cue_run(kind: str, seed: int) -> dict[str, float]:
    net, draw = cue_net(kind, seed), gen(1000 + seed)

    def loss() -> Tensor:
        pair, answer = CUES.sample(CUE_TASKS, draw)
        return F.cross_entropy(answers(net, pair, answer, draw)[0].flatten(0, 1), answer.flatten())

    train(net, loss, CUE_STEPS, 5e-3)
    with torch.no_grad():
        draw = gen(9)
        reward = answers(net, *CUES.sample(TEST, draw), draw)[1]
    late = reward[:, -LATE:].mean()
    return {"right": float(reward.mean()), "late": float(late), "parameters": size(net)}


# ---- maze


def maze_net(kind: str, seed: int) -> WithHeads:
    inputs = 9 + 1 + 4  # walls, last reward, last action
    heads = {"action": 4, "value": 1}
    options = {
        "non-plastic RNN": {"alpha": "none"},
        "uniform alpha": {"alpha": "uniform", "rule": "clip"},
        "alpha per weight": {"alpha": "free", "rule": "clip"},
        "modulated RNN": {"modulation": "simple"},
    }[kind]
    net = PlasticRNN(inputs, WIDTH, scale=WIDTH**-0.5, strength=0.05, generator=gen(seed), **options)
    return WithHeads(net, WIDTH, heads, gen(50 + seed))


def walk(net: WithHeads, n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n agents through their mazes: log-probabilities, entropies, values, rewards, all ``[T, time]``."""
    goal, at, memory = MAZE.sample(n, draw), MAZE.place(n, draw), net.net.start(n)
    told, kept = torch.zeros(n, 5), []
    for _ in range(MAZE_TIME):
        h, memory = net.net(torch.cat([MAZE.see(at), told], 1), memory)
        log_pi = F.log_softmax(net.heads["action"](h), -1)
        action = torch.multinomial(log_pi.detach().exp(), 1, generator=draw)
        at, reward = MAZE.step(at, action.squeeze(1), goal, draw)
        told = torch.cat([reward.unsqueeze(1), F.one_hot(action.squeeze(1), 4)], 1)
        entropy = -(log_pi.exp() * log_pi).sum(-1)
        kept.append((log_pi.gather(1, action).squeeze(1), entropy, net.heads["value"](h).squeeze(1), reward))
    log_prob, entropy, value, reward = (torch.stack(each, 1) for each in zip(*kept, strict=True))
    return log_prob, entropy, value, reward


def maze_run(kind: str, seed: int) -> dict[str, float]:
    net, draw = maze_net(kind, seed), gen(1000 + seed)

    def loss() -> Tensor:
        log_prob, entropy, value, reward = walk(net, MAZE_TASKS, draw)
        gain, gains = torch.zeros(MAZE_TASKS), []
        for step in reversed(reward.unbind(1)):
            gain = step + 0.9 * gain
            gains.append(gain)
        advantage = torch.stack(gains[::-1], 1) - value
        return (-log_prob * advantage.detach() + 0.1 * advantage.square() - 0.03 * entropy).mean()

    train(net, loss, MAZE_STEPS, 3e-3)
    with torch.no_grad():
        reward = walk(net, TEST, gen(9))[3].sum(1)
    return {"reward": float(reward.mean()), "parameters": size(net)}


STAGES: dict[str, tuple[Callable[[str, int], dict[str, float]], tuple[str, ...], str]] = {
    "patterns": (pattern_run, ("plastic RNN", "non-plastic RNN", "LSTM"), "right"),
    "cues": (cue_run, ("retroactive RNN", "plastic RNN", "modulated RNN", "non-plastic RNN"), "late"),
    "maze": (maze_run, ("modulated RNN", "alpha per weight", "uniform alpha", "non-plastic RNN"), "reward"),
}


def runs(stage: str) -> dict[str, tuple[Tensor, float, int]]:
    """Score of every seed, minutes and parameters of each net; a run that has a file is read, not trained."""
    run, kinds, key = STAGES[stage]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for seed in range(SEEDS):
        for kind in kinds:
            path = RUNS / stage / f"{kind.replace(' ', '-')}-{seed}.json"
            if not path.is_file():
                begin = time.perf_counter()
                result = run(kind, seed) | {"minutes": (time.perf_counter() - begin) / 60}
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".part").write_text(json.dumps(result))
                path.with_suffix(".part").replace(path)  # whole or not at all
            found[kind].append(json.loads(path.read_text()))
            print(stage, seed, kind, found[kind][-1], flush=True)
    return {
        kind: (torch.tensor([r[key] for r in each]), sum(r["minutes"] for r in each), int(each[0]["parameters"]))
        for kind, each in found.items()
    }


def row(
    stage: str, what: str, metric: str, x: Tensor, target: float, source: str, minutes: float, better: str = "higher"
) -> Row:
    """The mean over seeds with Student's interval."""
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(x)]
    mean, half = float(x.mean()), quantile * float(x.std()) / len(x) ** 0.5
    print(f"{what}: {mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]")
    return Row(
        "plasticity", what, metric, mean, mean - half, mean + half, n=TEST, seeds=len(x), target=target, better=better,
        source=source, tier="cpu", minutes=minutes, command=f"python recipes/plasticity/recipe.py {stage}",
    )  # fmt: skip


def patterns() -> list[Row]:
    """Plastic against the two that must hold patterns in their activity."""
    got, where = runs("patterns"), f"{PATTERNS.patterns} patterns of {PATTERNS.size}"
    where += f", {PATTERN_STEPS * PATTERN_TASKS} training tasks, {MORE} times as many where not plastic"
    score, minutes, _ = got["plastic RNN"]
    rows = [
        row("patterns", f"{where}: plastic RNN, zeroed elements restored", "accuracy", score, 0.95,
            "this recipe's own bar; no published figure is for this size", minutes),
    ]  # fmt: skip
    for kind in ("non-plastic RNN", "LSTM"):
        other, took, parameters = got[kind]
        rows.append(
            row("patterns", f"{where}: plastic RNN ({got['plastic RNN'][2]} weights) less {kind} ({parameters})",
                "accuracy, paired by seed", score - other, 0.0, FASTER, minutes + took)
        )  # fmt: skip
        row("patterns", f"{where}: {kind}", "accuracy", other, 0, "", took)
    return rows


def cues() -> list[Row]:
    """Modulated nets should find the target; the others should not."""
    got, where = (
        runs("cues"),
        f"target cue by reward, {CUE_STEPS * CUE_TASKS} training tasks, last {LATE} of {CUES.trials} trials",
    )
    rows = []
    for kind, (score, minutes, _) in got.items():
        good = kind in ("modulated RNN", "retroactive RNN")
        rows.append(
            row("cues", f"{where}: {kind}", "accuracy", score, 0.9 if good else 0.6,
                f"this recipe's own bar; {MODULATED}, figure 1: " + ("learns" if good else "fails (chance is 0.5)"),
                minutes, "higher" if good else "lower")
        )  # fmt: skip
    for kind in ("modulated RNN", "retroactive RNN"):
        gap, took = got[kind][0] - got["plastic RNN"][0], got[kind][1] + got["plastic RNN"][1]
        rows.append(
            row("cues", f"{where}: {kind} less plastic RNN", "accuracy, paired by seed", gap, 0.0, MODULATED, took)
        )
    return rows


def maze() -> list[Row]:
    """More reward with a strength for each weight than with one for all; most with modulation."""
    got, where = (
        runs("maze"),
        f"{MAZE.side} x {MAZE.side} maze, {MAZE_TIME} steps, {MAZE_STEPS * MAZE_TASKS} training tasks",
    )
    for kind, (score, took, _) in got.items():
        row("maze", f"{where}: {kind}", "reward", score, 0, "", took)
    pairs = [
        ("alpha per weight", "uniform alpha", LECTURE),
        ("alpha per weight", "non-plastic RNN", LECTURE),
        ("modulated RNN", "alpha per weight", MODULATED),
    ]
    return [
        row("maze", f"{where}: {a} less {b}", "found rewards, paired by seed", got[a][0] - got[b][0], 0.0, source,
            got[a][1] + got[b][1])
        for a, b, source in pairs
    ]  # fmt: skip


def main() -> None:
    """Train what is not trained yet, test, record; stage by stage."""
    torch.set_num_threads(1)
    stages = {"patterns": patterns, "cues": cues, "maze": maze}
    for name in sys.argv[1:] or list(stages):
        record(Path(__file__).parent, stages[name]())


if __name__ == "__main__":
    main()
