"""SAC's updates a second: one task beside published figures, many tasks beside a plain loop over them.

    python benchmarks/rl.py [alone] [many] [compiled]      # a minute each where nothing else runs; all by default
    python benchmarks/rl.py card                           # a minute, on CUDA

Sizes are half-cheetah's as in CleanRL: 17 numbers seen, 6 done, nets of 256-256, 256 replayed steps an update. One
update is a step of both critics, of the policy and of the temperature, and a move of the targets. Time is the
processor's, on one thread, so that other jobs beside do not count, or not as much as by the clock.

- ``alone``: updates of one task, and steps of the whole loop (act in MuJoCo, remember, draw, update). CleanRL's 95 and
  LeanRL's 725 are steps a second of such a loop, CleanRL's on its own hardware (PyTorch, one environment), LeanRL's on
  an H100 with compiled CUDA graphs; ours is one thread of a CPU. So the rows say where this machine stands, not who is
  faster.
- ``many``: T agents, one a task, each with its own memory: ours as one batched update (parameters stacked, losses
  under vmap, one Adam), against a plain agent, as CleanRL writes it, task after task. Pairs in turns; median ratio.
- ``compiled``: the batched update through ``torch.compile``, against itself without.
- ``card``: the same on CUDA, by the clock: updates alone as one graph each, the whole loop with one robot (what CleanRL
  and LeanRL measure) and with sixteen, and ten tasks at once, captured or not, against one after another. Jobs that
  share the card slow all of it down.

Alone, an update is some 0.6 GFLOP of matrix products, which is what one thread is busy with: hence below both figures,
and hence ten tasks at once gain much where nets are small and little at half-cheetah's sizes.

Prints a table and writes claims to recipes/benchmarks-rl/result.json.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from quickstudy.combine import mean
from quickstudy.core import Problem, Replayed
from quickstudy.evaluation.claims import Row, record
from quickstudy.methods import SAC
from quickstudy.methods._program import captured, compiled
from quickstudy.tasks.acting import OnDevice
from quickstudy.tasks.mujoco import Robots
from quickstudy.training import fit_off_policy
from quickstudy.training.compiled import CompiledLosses

ROOT = Path(__file__).resolve().parents[1]
CHEETAH = Problem((17,), "regression", 6)
RATE, DISCOUNT, LR, PAIRS = 0.005, 0.99, 3e-4, 9
PARTS = ("observation", "action", "reward", "done", "log_prob", "terminated", "after", "noise")
Data = list[Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps(n: tuple[int, ...], problem: Problem = CHEETAH) -> Data:
    """Replayed steps, made up. Shape: each ``[*n, 1, ...]``."""
    seen, done, draw = problem.x_shape[0], problem.n_outputs, generator(1)
    rand = lambda *shape: torch.randn(*n, 1, *shape, generator=draw)  # noqa: E731
    reward, none = rand(), torch.zeros(*n, 1)
    return [rand(seen), rand(done).tanh(), reward, none, none, none, rand(seen), rand(2, done)]


def replayed(data: Data) -> Replayed:
    return Replayed(**dict(zip(PARTS, data, strict=True)))


# --- ours


def captured_update(width: int, batch: int, device: str) -> Callable[[], object]:
    """Our update of one task by one program, as :func:`fit_off_policy` takes it; nobody looks at the loss."""
    method = SAC(CHEETAH, width=width, discount=DISCOUNT, rate=RATE, generator=generator()).to(device)
    moving = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=LR, weight_decay=0.0, fused=True)
    program, data = CompiledLosses(method, mean), replayed([part.to(device) for part in steps((batch,))])

    def update() -> None:
        program(data)
        optimiser.step()
        method.follow()

    return update


def one_update(width: int, batch: int) -> Callable[[], object]:
    """Our update of one task."""
    method = SAC(CHEETAH, width=width, discount=DISCOUNT, rate=RATE, generator=generator())
    moving = [p for p in method.parameters() if p.requires_grad]
    optimiser, data = torch.optim.AdamW(moving, lr=LR, weight_decay=0.0, fused=True), replayed(steps((batch,)))

    def update() -> None:
        optimiser.zero_grad()
        method(data).mean().backward()
        optimiser.step()
        method.follow()

    return update


class Stacked:
    """T agents as one: parameters with a leading axis of tasks.

    Adam treats each number alone and the agents' losses are added, so this equals T agents with an Adam each.
    """

    def __init__(self, agents: list[SAC]) -> None:
        self.method = agents[0]
        self.state: dict[str, Tensor] = stack_module_state(list(agents))[0]  # type: ignore[arg-type]
        self.slow = {name: value.detach() for name, value in self.state.items() if name.startswith("target.")}
        self.fast = {name: value for name, value in self.state.items() if name not in self.slow}
        self.optimiser = torch.optim.AdamW(list(self.fast.values()), lr=LR, weight_decay=0.0, fused=True)
        self.program: Callable[..., list[Tensor]] | None = None

    def losses(self, values: dict[str, Tensor], data: Data) -> Tensor:
        """Of each agent on its own steps. Shape: ``[T]``."""
        one = lambda own, part: functional_call(self.method, own, (replayed(part),)).mean()  # noqa: E731
        return vmap(one)(values, data)

    def gradients(self, state: list[Tensor], data: list[Tensor | None]) -> list[Tensor]:
        values = dict(zip([*self.fast, *self.slow], state, strict=True))
        moving = {name: values[name].detach().requires_grad_() for name in self.fast}
        losses = self.losses(values | moving, [part for part in data if part is not None])
        return [losses.detach(), *torch.autograd.grad(losses.sum(), list(moving.values()))]

    def compile(self, data: Data) -> None:
        record = captured if data[0].is_cuda else compiled
        self.program = record(self.gradients, self.now(), list(data), what="losses", whose="SAC")

    def now(self) -> list[Tensor]:
        return [value.detach() for value in (*self.fast.values(), *self.slow.values())]

    def update(self, data: Data) -> Tensor:
        losses, *gradients = (self.program or self.gradients)(self.now(), data)
        for value, gradient in zip(self.fast.values(), gradients, strict=True):
            value.grad = gradient.contiguous()  # the fused Adam reads memory in the order of the parameter
        self.optimiser.step()
        with torch.no_grad():
            leaders = [self.fast[name.replace("target.", "critics.", 1)] for name in self.slow]
            torch._foreach_lerp_(list(self.slow.values()), [p.detach() for p in leaders], RATE)
        return losses


# --- a plain agent, task after task


def plain_net(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    return nn.Sequential(*layers)


class Plain:
    """SAC as single-file implementations have it: a module for each critic and each target, an Adam for each part.

    Built with the weights of one of ours, so that both do the same.
    """

    def __init__(self, ours: SAC) -> None:
        width, seen, done = ours.critics.weights[0].shape[2], CHEETAH.x_shape[0], CHEETAH.n_outputs
        place = ours.log_temperature.device
        self.actor = plain_net(seen, width, 2 * done).to(place)
        self.actor.load_state_dict({key.removeprefix("net."): v for key, v in ours.actor.state_dict().items()})
        self.critics = [plain_net(seen + done, width, 1).to(place) for _ in range(2)]
        self.targets = [plain_net(seen + done, width, 1).to(place) for _ in range(2)]
        for k in range(2):
            linear = [layer for layer in self.critics[k] if isinstance(layer, nn.Linear)]
            for layer, weight, bias in zip(linear, ours.critics.weights, ours.critics.biases, strict=True):
                layer.weight.data.copy_(weight.data[k].T)
                layer.bias.data.copy_(bias.data[k, 0])
            self.targets[k].load_state_dict(self.critics[k].state_dict())
        self.log_alpha = ours.log_temperature.detach().clone().requires_grad_()
        self.aim = ours.aim
        self.of_critics = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=LR)
        self.of_actor = torch.optim.Adam(self.actor.parameters(), lr=LR)
        self.of_alpha = torch.optim.Adam([self.log_alpha], lr=LR)

    def act(self, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(seen).chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        raw = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return raw.tanh(), log_prob.sum(-1)

    def worth(self, nets: list[nn.Sequential], seen: Tensor, action: Tensor) -> list[Tensor]:
        return [net(torch.cat([seen, action], -1)).squeeze(-1) for net in nets]

    def update(self, data: Data) -> float:
        seen, action, reward, _, _, terminated, after, noise = (part.squeeze(1) for part in data)
        alpha = self.log_alpha.exp().item()
        with torch.no_grad():
            ahead, log_prob = self.act(after, noise[:, 1])
            best = torch.min(*self.worth(self.targets, after, ahead)) - alpha * log_prob
            y = reward + DISCOUNT * (1 - terminated) * best
        error = sum(F.mse_loss(value, y) for value in self.worth(self.critics, seen, action))
        assert isinstance(error, Tensor)
        own, log_prob = self.act(seen, noise[:, 0])
        policy = (alpha * log_prob - torch.min(*self.worth(self.critics, seen, own))).mean()
        entropy = (self.log_alpha * (-log_prob.detach() - self.aim)).mean()
        self.of_actor.zero_grad()
        policy.backward()
        self.of_critics.zero_grad()  # the policy's loss left something there
        error.backward()
        self.of_alpha.zero_grad()
        entropy.backward()
        for optimiser in (self.of_critics, self.of_actor, self.of_alpha):
            optimiser.step()
        for critic, target in zip(self.critics, self.targets, strict=True):
            for fast, slow in zip(critic.parameters(), target.parameters(), strict=True):
                slow.data.copy_(RATE * fast.data + (1 - RATE) * slow.data)
        return float(error.detach() + policy.detach() + entropy.detach())


# --- measuring


Clock = Callable[[], float]


def by_card() -> float:
    """The time when all that the card was told to do is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def rate(update: Callable[[], object], windows: int = 5, seconds: float = 1.0, clock: Clock = time.process_time,
         at_once: int = 1) -> float:  # fmt: skip
    """Updates a second of the processor, or of another clock, in the best window; so many between two looks at it."""
    update(), update()
    best = 0.0
    for _ in range(windows):
        n, start = 0, clock()
        while (now := clock()) - start < seconds:
            for _ in range(at_once):
                update()
            n += at_once
        best = max(best, n / (now - start))
    return best


def pairs(
    one: Callable[[], object], other: Callable[[], object], rounds: int, clock: Clock = time.process_time
) -> np.ndarray:
    """Ratios of the processor's seconds, or another clock's, of other over one, in turns."""
    ratios = []
    for _ in range(PAIRS + 1):
        spent = []
        for update in (one, other):
            start = clock()
            for _ in range(rounds):
                update()
            spent.append(clock() - start)
        ratios.append(spent[1] / spent[0])
    return np.array(ratios[1:])  # the first warms up


def one_by_one(updates: list[Callable[[], object]]) -> None:
    for update in updates:
        update()


def median(ratios: np.ndarray) -> tuple[float, float, float]:
    """With its 95 % interval by order statistics."""
    ordered, rank = np.sort(ratios), int(binom.ppf(0.025, len(ratios), 0.5))
    return float(np.median(ratios)), float(ordered[rank - 1]), float(ordered[-rank])


def row(what: str, metric: str, value: float, target: float, source: str, minutes: float, n: int = 1,
        low: float | None = None, high: float | None = None, card: bool = False) -> Row:  # fmt: skip
    command, tier = ("python benchmarks/rl.py card", "full") if card else ("python benchmarks/rl.py", "cpu")
    return Row("max-entropy", what, metric, value, low, high, n, 1, target, "higher", source, tier, minutes, command)  # type: ignore[arg-type]


PUBLISHED = (
    (95.0, "CleanRL's docs, HalfCheetah-v4: steps a second of its whole loop, on other hardware"),
    (725.0, "LeanRL's README, HalfCheetah: steps a second of its whole loop, compiled, on an H100"),
)


def alone(beside: str) -> list[Row]:
    start, rows = time.perf_counter(), []
    updates = rate(one_update(256, 256))
    took = (time.perf_counter() - start) / 60
    start, robots = time.perf_counter(), Robots("half-cheetah", "forward", length=1000, threads=1)
    method = SAC(robots.problem, width=256, discount=DISCOUNT, rate=RATE, generator=generator())
    begin = {"at": 0.0}

    def progress(done: int, _: int) -> None:
        if done == 300:  # warm by then
            begin["at"] = time.process_time()

    fit_off_policy(
        method, robots, steps=900, tasks=1, batch=256, warmup=256, lr=LR, every=900, generator=generator(),
        progress=progress,
    )  # fmt: skip
    loop = 600 / (time.process_time() - begin["at"])
    loop_took = (time.perf_counter() - start) / 60
    print(f"one task: {updates:.0f} updates, {loop:.0f} steps of the whole loop a second of the processor")
    for target, source in PUBLISHED:
        name = source.partition("'")[0]
        what = f"half-cheetah sizes, one task, one CPU thread, beside {name}'s {target:.0f}"
        rows.append(
            row(f"SAC's updates alone: {what}", f"updates a processor-second{beside}", updates, target, source, took)
        )
        rows.append(
            row(f"SAC's whole loop: {what}", f"steps a processor-second{beside}", loop, target, source, loop_took)
        )
    return rows


SIZES = {"half-cheetah's sizes (256-256, batch 256)": (256, 256, 4), "small nets (64-64, batch 64)": (64, 64, 16)}
TASKS = 10


def many(beside: str) -> list[Row]:
    rows = []
    for name, (width, batch, rounds) in SIZES.items():
        start = time.perf_counter()
        agents = [SAC(CHEETAH, width=width, discount=DISCOUNT, rate=RATE, generator=generator(i)) for i in range(TASKS)]
        plain, ours, data = [Plain(agent) for agent in agents], Stacked(agents), steps((TASKS, batch))
        apart = [[part[i] for part in data] for i in range(TASKS)]
        for _ in range(3):  # both do the same
            theirs = torch.tensor([agent.update(own) for agent, own in zip(plain, apart, strict=True)])
            torch.testing.assert_close(ours.update(data), theirs, rtol=1e-3, atol=1e-3)
        in_turn = [partial(agent.update, own) for agent, own in zip(plain, apart, strict=True)]
        found = pairs(partial(ours.update, data), partial(one_by_one, in_turn), rounds)
        value, low, high = median(found)
        print(f"{TASKS} tasks, {name}: {value:.2f} [{low:.2f}, {high:.2f}] times a plain loop over tasks")
        rows.append(
            row(
                f"SAC's updates, {TASKS} tasks at once against one after another, {name}",
                f"times faster by the processor's time, median of pairs{beside}", value, 1.0, "computed",
                (time.perf_counter() - start) / 60, len(found), low, high,
            )
        )  # fmt: skip
    return rows


def with_compile(beside: str) -> list[Row]:
    rows = []
    for name, (width, batch, rounds) in SIZES.items():
        start = time.perf_counter()
        make = lambda: Stacked(  # noqa: E731
            [SAC(CHEETAH, width=width, discount=DISCOUNT, rate=RATE, generator=generator(i)) for i in range(TASKS)]  # noqa: B023
        )
        eager, program, data = make(), make(), steps((TASKS, batch))
        program.compile(data)
        warm = time.perf_counter() - start
        value, low, high = median(pairs(partial(program.update, data), partial(eager.update, data), rounds))
        print(f"{TASKS} tasks, {name}: compiled {value:.2f} [{low:.2f}, {high:.2f}] times; {warm:.0f} s to compile")
        rows.append(
            row(
                f"SAC's updates, {TASKS} tasks at once, compiled against not, {name}",
                f"times faster by the processor's time, median of pairs{beside}", value, 1.0, "computed",
                (time.perf_counter() - start) / 60, PAIRS, low, high,
            )
        )  # fmt: skip
    return rows


def whole_loop(robots: int, loops: int, device: str) -> float:
    """Steps of the whole loop a second of the clock, an update each, when warm; of the better half."""
    env = OnDevice(Robots("half-cheetah", "forward", length=1000, threads=1), device)
    method = SAC(env.problem, width=256, discount=DISCOUNT, rate=RATE, generator=generator()).to(device)
    marks: list[float] = []

    def progress(done: int, _: int) -> None:
        if done in (500, 500 + loops // 2, 500 + loops):
            marks.append(by_card() if device == "cuda" else time.perf_counter())

    fit_off_policy(
        method, env, steps=501 + loops, tasks=robots, batch=256, warmup=256, lr=LR, every=10**6, generator=generator(),
        progress=progress, compile=True,
    )  # fmt: skip
    return loops / 2 / min(marks[1] - marks[0], marks[2] - marks[1])


def card(beside: str) -> list[Row]:
    """All on CUDA."""
    rows, name, metric = [], torch.cuda.get_device_name(), f"a second of the clock{beside}"
    start = time.perf_counter()
    updates = rate(captured_update(256, 256, "cuda"), 5, 1.0, by_card, at_once=200)
    took = (time.perf_counter() - start) / 60
    print(f"{name}: {updates:.0f} captured updates a second")
    for target, source in PUBLISHED:
        what = f"SAC's updates alone, captured: half-cheetah sizes, {name}, beside {source.partition(chr(39))[0]}'s"
        rows.append(row(f"{what} {target:.0f}", f"updates {metric}", updates, target, source, took, card=True))
    for robots in (1, 16):
        start = time.perf_counter()
        loop = whole_loop(robots, 4000, "cuda")
        took = (time.perf_counter() - start) / 60
        print(f"{name}: {loop:.0f} loops a second with {robots} robots, {loop * robots:.0f} steps")
        what = f"SAC's whole loop, captured: half-cheetah, robots: {robots}, an update a loop, {name}"
        for target, source in PUBLISHED:
            beside_whom = f"{what}, beside {source.partition(chr(39))[0]}'s {target:.0f}"
            rows.append(row(beside_whom, f"loops {metric}", loop, target, source, took, card=True))
    for sizes, (width, batch, rounds) in SIZES.items():
        start = time.perf_counter()
        make = lambda: [  # noqa: E731
            SAC(CHEETAH, width=width, discount=DISCOUNT, rate=RATE, generator=generator(i)).to("cuda")  # noqa: B023
            for i in range(TASKS)
        ]
        plain, eager, program = [Plain(agent) for agent in make()], Stacked(make()), Stacked(make())
        data = [part.to("cuda") for part in steps((TASKS, batch))]
        program.compile(data)
        in_turn = [partial(one.update, [part[i] for part in data]) for i, one in enumerate(plain)]
        for _ in range(3):  # all do the same
            theirs = torch.tensor([float(update()) for update in in_turn])  # type: ignore[arg-type]
            for ours in (eager, program):
                torch.testing.assert_close(ours.update(data).cpu(), theirs, rtol=1e-2, atol=1e-2)
        for how, ours in (("", eager), (", captured", program)):
            found = pairs(partial(ours.update, data), partial(one_by_one, in_turn), rounds, by_card)
            value, low, high = median(found)
            print(f"{TASKS} tasks, {sizes}{how}: {value:.2f} [{low:.2f}, {high:.2f}] times a plain loop over tasks")
            rows.append(
                row(
                    f"SAC's updates, {TASKS} tasks at once{how}, against one after another, {sizes}, {name}",
                    f"times faster by the clock, median of pairs{beside}", value, 1.0, "computed",
                    (time.perf_counter() - start) / 60, len(found), low, high, card=True,
                )
            )  # fmt: skip
    return rows


KINDS = {"alone": alone, "many": many, "compiled": with_compile, "card": card}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART")
    parts = parser.parse_args().parts or [part for part in KINDS if part != "card"]
    unknown = sorted({*parts} - {*KINDS})
    if unknown:
        parser.error(f"Expected parts of {', '.join(KINDS)}. Found {unknown[0]!r}.")
    if "card" in parts and not torch.cuda.is_available():
        parser.error("Expected CUDA for the part 'card'. Found none. Leave it out, or run it where there is a card.")
    torch.set_num_threads(1)
    beside = " (other jobs ran beside)" if os.getloadavg()[0] > 1 else ""
    for part in parts:
        record(ROOT / "recipes" / "benchmarks-rl", KINDS[part](beside))


if __name__ == "__main__":
    main()
