"""Cart-pole and pendulum, step by step as in Gymnasium, with their physics as the task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core import InputError, Problem
from quickstudy.tasks.acting import Rule, check_action, uniform

Range = tuple[float, float]


def draw_physics(n: int, ranges: tuple[Range, ...], generator: torch.Generator) -> Tensor:
    """Each quantity uniform in its range. Shape: ``[n, quantities]``."""
    low, high = torch.tensor(ranges, device=generator.device).T
    return uniform(low, high, (n, len(ranges)), generator)


def check_ranges(**ranges: Range) -> None:
    """Refuse what is no range of positive numbers."""
    for name, (low, high) in ranges.items():
        if not 0 < low <= high < math.inf:
            raise InputError(f"Expected {name} as (low, high) with 0 < low <= high. Found ({low}, {high}).")


@dataclass(frozen=True)
class CartPole:
    """A pole on a cart: push left (0) or right (1); every step that it stands earns 1.

    ``CartPole-v1`` of Gymnasium with its default physics; give ranges to draw tasks of other physics. An episode
    ends (terminated) when the cart is 2.4 m off or the pole leans by 12 degrees, and is cut off after 500 steps.

    Args:
        gravity: range to draw from, m/s^2.
        cart: range of the cart's mass, kg.
        pole: range of the pole's mass, kg.
        half_length: range of half the pole's length, m.
        length: steps of an episode.

    Shape:
        tasks ``[T, 4]`` (gravity, cart, pole, half length), state ``[T, 5]`` (position, speed, angle, its speed,
        steps so far), observation ``[T, 4]``, action ``[T]``.

    Reference:
        Barto, Sutton, Anderson 1983; Florian 2007, Correct equations for the dynamics of the cart-pole system.
    """

    gravity: Range = (9.8, 9.8)
    cart: Range = (1.0, 1.0)
    pole: Range = (0.1, 0.1)
    half_length: Range = (0.5, 0.5)
    length: int = 500

    def __post_init__(self) -> None:
        check_ranges(gravity=self.gravity, cart=self.cart, pole=self.pole, half_length=self.half_length)

    @property
    def problem(self) -> Problem:
        """Four numbers seen, left or right done."""
        return Problem((4,), "classification", 2)

    @property
    def horizon(self) -> int:
        """Steps of one full episode."""
        return self.length

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n physics."""
        return draw_physics(n, (self.gravity, self.cart, self.pole, self.half_length), generator)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Everything within 0.05 of rest."""
        seen = uniform(-0.05, 0.05, (len(tasks), 4), generator).to(tasks)
        return torch.cat([seen, torch.zeros_like(seen[:, :1])], 1), seen

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Euler's step of 0.02 s under a push of 10 N."""
        check_action(self.problem, action)
        gravity, cart, pole, half = tasks.unbind(1)
        x, v, angle, turn, time = state.unbind(1)
        push = 20.0 * action.to(state.dtype) - 10.0
        cos, sin, mass = angle.cos(), angle.sin(), cart + pole
        drive = (push + pole * half * turn.square() * sin) / mass
        swing = (gravity * sin - cos * drive) / (half * (4 / 3 - pole * cos.square() / mass))
        speed_up = drive - pole * half * swing * cos / mass
        x, v = x + 0.02 * v, v + 0.02 * speed_up
        angle, turn = angle + 0.02 * turn, turn + 0.02 * swing
        seen = torch.stack([x, v, angle, turn], 1)
        terminated = (x.abs() > 2.4) | (angle.abs() > 12 * 2 * math.pi / 360)
        truncated = (time + 1 >= self.length) & ~terminated
        return torch.cat([seen, time.unsqueeze(1) + 1], 1), seen, torch.ones_like(x), terminated, truncated

    def oracle(self, tasks: Tensor) -> Rule:
        """Push to the side that the linear-quadratic regulator of the task's own physics says. Keeps it up."""
        gain = self.regulator(tasks)
        return Rule(lambda seen, generator: ((gain * seen).sum(1) < 0).long())

    def regulator(self, tasks: Tensor, backups: int = 500) -> Tensor:
        """The gain K of ``push = -K s`` around the upright, by Riccati's recursion. Shape: ``[T, 4]``."""
        gravity, cart, pole, half = tasks.double().unbind(1)
        mass = cart + pole
        inertia = half * (4 / 3 - pole / mass)
        one = torch.ones_like(mass)
        a = torch.eye(4, dtype=torch.float64, device=tasks.device).repeat(len(tasks), 1, 1)
        a[:, 0, 1] = a[:, 2, 3] = 0.02 * one
        a[:, 1, 2], a[:, 3, 2] = -0.02 * pole * half * gravity / (mass * inertia), 0.02 * gravity / inertia
        b = a.new_zeros(len(tasks), 4, 1)
        b[:, 1, 0] = 0.02 * (1 / mass + pole * half / (mass.square() * inertia))
        b[:, 3, 0] = -0.02 / (mass * inertia)
        cost = torch.diag(torch.tensor([1.0, 0.1, 10.0, 0.1], dtype=torch.float64, device=tasks.device))
        value, gain = cost.expand_as(a), b.mT
        for _ in range(backups):
            gain = (b.mT @ value @ a) / (1e-2 + b.mT @ value @ b)
            value = cost + a.mT @ value @ (a - b @ gain)
        return gain.squeeze(1).to(tasks.dtype)


@dataclass(frozen=True)
class Pendulum:
    r"""Swing a pendulum up and keep it there with a torque too weak to lift it at once.

    A step earns :math:`-(\theta^2 + 0.1 \dot\theta^2 + 0.001 u^2)`, the angle from upright in :math:`[-\pi, \pi)`.
    ``Pendulum-v1`` of Gymnasium with its default physics; give ranges to draw tasks of other physics. An action of
    1 is the largest torque, 2 Nm. An episode is cut off (truncated) after 200 steps, and never ends by itself.

    Args:
        gravity: range to draw from, m/s^2.
        mass: range, kg.
        rod: range of the rod's length, m.
        length: steps of an episode.

    Shape:
        tasks ``[T, 3]`` (gravity, mass, rod), state ``[T, 3]`` (angle, its speed, steps so far), observation
        ``[T, 3]`` (cosine and sine of the angle, speed), action ``[T, 1]``.
    """

    gravity: Range = (10.0, 10.0)
    mass: Range = (1.0, 1.0)
    rod: Range = (1.0, 1.0)
    length: int = 200

    def __post_init__(self) -> None:
        check_ranges(gravity=self.gravity, mass=self.mass, rod=self.rod)

    @property
    def problem(self) -> Problem:
        """Three numbers seen, one torque done."""
        return Problem((3,), "regression", 1)

    @property
    def horizon(self) -> int:
        """Steps of one full episode."""
        return self.length

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n physics."""
        return draw_physics(n, (self.gravity, self.mass, self.rod), generator)

    def reset(self, tasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Any angle, a speed in [-1, 1]."""
        angle, speed = uniform(-1, 1, (2, len(tasks)), generator).to(tasks)
        state = torch.stack([math.pi * angle, speed, torch.zeros_like(speed)], 1)
        return state, self.see(state)

    def step(
        self, state: Tensor, action: Tensor, tasks: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of 0.05 s."""
        check_action(self.problem, action)
        angle, speed, reward = swing(state[:, 0], state[:, 1], action[:, 0], tasks)
        state = torch.stack([angle, speed, state[:, 2] + 1], 1)
        truncated = state[:, 2] >= self.length
        return state, self.see(state), reward, torch.zeros_like(truncated), truncated

    def see(self, state: Tensor) -> Tensor:
        """Cosine, sine, speed."""
        return torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1]], 1)

    def plan(self, tasks: Tensor, angles: int = 101, speeds: int = 101, torques: int = 11) -> PendulumPlan:
        """A plan for each task, near its optimum; a second for each on one core."""
        return PendulumPlan(tasks, self.length, angles, speeds, torques)

    def oracle(self, tasks: Tensor) -> Rule:
        """Follows :meth:`plan`."""
        plan = self.plan(tasks)
        return Rule(lambda seen, generator: plan.act(torch.atan2(seen[:, 1], seen[:, 0]), seen[:, 2]))


def swing(angle: Tensor, speed: Tensor, action: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gymnasium's pendulum: angle, speed and reward after a step. Shape: all alike, but ``tasks [T, 3]``."""
    gravity, mass, rod = (part.view(-1, *[1] * (angle.ndim - 1)) for part in tasks.unbind(1))
    torque = 2 * action.clamp(-1, 1)
    wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    reward = -(wrapped.square() + 0.1 * speed.square() + 0.001 * torque.square())
    speed = speed + (1.5 * gravity / rod * angle.sin() + 3 / (mass * rod.square()) * torque) * 0.05
    speed = speed.clamp(-8, 8)
    return angle + speed * 0.05, speed, reward


class PendulumPlan:
    """Value iteration on a grid of angles and speeds, interpolated between them; all tasks at once.

    Args:
        tasks: physics, ``[T, 3]``.
        steps: backups, which is how many steps ahead it looks.
        angles: grid points around the circle.
        speeds: grid points from -8 to 8.
        torques: actions that are tried.
    """

    def __init__(self, tasks: Tensor, steps: int, angles: int, speeds: int, torques: int) -> None:
        self.tasks, self.angles, self.speeds = tasks, angles, speeds
        line = lambda low, high, n: torch.linspace(low, high, n, device=tasks.device, dtype=tasks.dtype)  # noqa: E731
        self.torques = line(-1, 1, torques)
        # a circle: the last angle is one short of the first
        angle = line(-math.pi, math.pi, angles + 1)[:-1].view(1, -1, 1, 1)
        speed = line(-8, 8, speeds).view(1, 1, -1, 1)
        angle, speed, torque, _ = torch.broadcast_tensors(angle, speed, self.torques, tasks[:, :1, None, None])
        after, faster, reward = swing(angle, speed, torque, tasks)
        corner, weight = self.corners(after, faster)
        self.value = tasks.new_zeros(len(tasks), angles * speeds)
        for _ in range(steps):
            best = (reward + self.ahead(corner, weight)).amax(-1)
            self.value = best.flatten(1)

    def corners(self, angle: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
        """The four grid points around each place and what each counts. Shape: ``[4, *place]``."""
        across = torch.remainder(angle + math.pi, 2 * math.pi) / (2 * math.pi) * self.angles
        up = (speed + 8) / 16 * (self.speeds - 1)
        i, j = across.floor(), up.floor().clamp(max=self.speeds - 2)
        a, b = across - i, up - j
        i, j = i.long() % self.angles, j.long()
        ahead = (i + 1) % self.angles
        corner = torch.stack([row * self.speeds + column for row in (i, ahead) for column in (j, j + 1)])
        return corner, torch.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b])

    def ahead(self, corner: Tensor, weight: Tensor) -> Tensor:
        """The value at places between grid points, ``[T, ...]``."""
        found = [self.value.gather(1, one.reshape(len(one), -1)).view_as(one) for one in corner]
        return sum((w * v for w, v in zip(weight, found, strict=True)), torch.zeros_like(weight[0]))

    def __call__(self, angle: Tensor, speed: Tensor) -> Tensor:
        """The best return from here. Shape: all ``[T]``."""
        return self.ahead(*self.corners(angle, speed))

    def act(self, angle: Tensor, speed: Tensor) -> Tensor:
        """The torque whose step and value after it are best. Shape: angle and speed ``[T]``; gives ``[T, 1]``."""
        angle, speed, torque = torch.broadcast_tensors(angle.unsqueeze(1), speed.unsqueeze(1), self.torques)
        after, faster, reward = swing(angle, speed, torque, self.tasks)
        return self.torques[(reward + self.ahead(*self.corners(after, faster))).argmax(1)].unsqueeze(1)
