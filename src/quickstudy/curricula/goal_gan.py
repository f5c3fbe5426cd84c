"""Goal GAN: a generator proposes goals that are neither too hard nor too easy at present."""

from __future__ import annotations

import torch
from torch import Tensor

from quickstudy.core import InputError
from quickstudy.curricula.taught import Curriculum, box, nearest
from quickstudy.nets import MLP


class GoalGAN(Curriculum):
    r"""Goals of intermediate difficulty by a least-squares GAN (Florensa et al. 2018, sections 4.1 to 4.3).

    A goal is labelled by the share :math:`\bar R^g` of its episodes that reached it:
    :math:`y_g = 1\{R_{min} \le \bar R^g \le R_{max}\}`. Discriminator and generator then minimise

    .. math::
        V(D) = E_{g \sim met} [y_g (D(g) - b)^2 + (1 - y_g) (D(g) - a)^2] + E_z [(D(G(z)) - a)^2]

        V(G) = E_z [(D(G(z)) - c)^2] \qquad a = -1, b = 1, c = 0

    so that goals of the wrong difficulty serve as examples of what not to propose. A share of what is met are old
    goals that once had the right difficulty, lest they be forgotten; a goal close to one that is kept is not kept.

    Args:
        low: lowest corner of the box of goals, ``[d]``.
        high: its highest.
        failed: the total reward of an episode that did not reach its goal, at most; any more says that it did.
        first: goals that the untrained policy comes by, ``[n, d]``: the generator begins with such.
        near: of goals within this distance one is kept.
        repeats: how often each goal is met at a time, which is what its label comes from.
        alike: goals within this distance share their label; above 0 where goals are not met several times (in
            :func:`quickstudy.training.fit_off_policy`, which draws them one by one).
        shares: :math:`R_{min}` and :math:`R_{max}`.
        old: share of the goals met that are old ones.
        jitter: deviation of the normal noise on proposed goals, as a share of the box.
        episodes: between trainings of the nets, by whose goals they are labelled.
        updates: steps of both nets in a training.
        room: old goals kept at most.
        generator: draws the initial weights, and the batches of the first training.

    Shape:
        goals ``[n, d]``.

    Raises:
        InputError: the corners do not make a box; shares out of order; no first goals.

    Reference:
        Florensa, Held, Geng, Abbeel 2018, Automatic goal generation for reinforcement learning agents,
        arXiv:1705.06366; settings after the authors' code (a third of old goals, two episodes a goal). Departs from
        it: where no goal had the right difficulty, the nets stay as they are; smaller nets.
    """

    low: Tensor
    high: Tensor
    kept: Tensor
    n_kept: Tensor
    seen: Tensor
    reached: Tensor
    n_seen: Tensor

    NOISE = 4  # numbers that the generator makes a goal of

    def __init__(
        self,
        low: Tensor,
        high: Tensor,
        *,
        failed: float,
        first: Tensor,
        near: float,
        repeats: int = 2,
        alike: float = 0.0,
        shares: tuple[float, float] = (0.1, 0.9),
        old: float = 1 / 3,
        jitter: float = 0.03,
        episodes: int = 512,
        updates: int = 100,
        room: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        low, high = box(low, high)
        if not 0 <= shares[0] < shares[1] <= 1 or not len(first):
            raise InputError(
                f"Expected shares 0 <= R_min < R_max <= 1, and first goals. Found {shares} and {len(first)} goals. "
                "Collect a few trials at random and give the goals that they achieved."
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.failed, self.near, self.shares, self.old, self.jitter = failed, near, shares, old, jitter
        self.repeats, self.alike = repeats, alike
        self.episodes, self.updates, self.room = episodes, updates, room
        self.maker = MLP((self.NOISE, 64, 64, len(low)), generator)
        self.judge = MLP((len(low), 64, 64, 1), generator)
        for name, value in (
            ("low", low), ("high", high), ("kept", low.new_zeros(room, len(low))), ("n_kept", torch.tensor(0)),
            ("seen", low.new_zeros(episodes, len(low))), ("reached", low.new_zeros(episodes)),
            ("n_seen", torch.tensor(0)),
        ):  # fmt: skip
            self.register_buffer(name, value)
        first = first.to(low)
        self._keep(first)
        self._train(first, torch.ones_like(first[:, 0]), 5 * updates, generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Proposals, and old goals among them."""
        kept, m = self.kept[: int(self.n_kept)], -(-n // self.repeats)
        with torch.no_grad():
            goals = self.propose(m, generator)
        again = kept[torch.randint(len(kept), (m,), generator=generator, device=kept.device)]
        chance = torch.rand(m, 1, generator=generator, device=kept.device)
        return again.where(chance < self.old, goals).repeat_interleave(self.repeats, 0)[:n]

    def propose(self, n: int, generator: torch.Generator) -> Tensor:
        """What the generator makes, with some noise, within the box. Shape: ``[n, d]``."""
        goals = self._made(n, generator)
        noise = torch.randn(goals.shape, generator=generator, device=goals.device)
        return (goals + self.jitter * (self.high - self.low) * noise).clamp(self.low, self.high)

    def met(self, tasks: Tensor, returns: Tensor, last: Tensor, generator: torch.Generator) -> None:
        """Note the episodes; once there are enough, label their goals and train the nets on them."""
        won = returns > self.failed
        for goals, reached in zip(tasks.split(self.episodes), won.split(self.episodes), strict=True):
            at = int(self.n_seen)
            now = min(self.episodes - at, len(goals))
            self._note(goals[:now], reached[:now])
            if int(self.n_seen) == self.episodes:
                label = self.labels(self.seen, self.reached)
                if bool(label.any()):
                    self._train(self.seen, label, self.updates, generator)
                    self._keep(self.seen[label > 0])
                self.n_seen.zero_()
                self._note(goals[now:], reached[now:])

    def labels(self, goals: Tensor, reached: Tensor) -> Tensor:
        """1 where a goal was reached neither too seldom nor too often, else 0. Shape: ``[n, d]``, ``[n]``."""
        far = (goals.unsqueeze(1) - goals).abs().amax(-1)
        beside = (far <= self.alike).to(goals)
        share = beside @ reached / beside.sum(1)
        return ((share >= self.shares[0]) & (share <= self.shares[1])).to(goals)

    def _note(self, goals: Tensor, reached: Tensor) -> None:
        here = slice(int(self.n_seen), int(self.n_seen) + len(goals))
        self.seen[here], self.reached[here] = goals, reached.to(self.reached)
        self.n_seen += len(goals)

    def _keep(self, goals: Tensor) -> None:
        """Keep those that are far from all that are kept, while there is room."""
        for goal in goals:
            n = int(self.n_kept)
            if n < self.room and (n == 0 or float(nearest(goal.unsqueeze(0), self.kept[:n])[0]) > self.near):
                self.kept[n] = goal
                self.n_kept += 1

    def _made(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n, self.NOISE, generator=generator, device=self.low.device)
        return self._to_goal(self.maker(z.to(self.low)).tanh())

    def _to_goal(self, unit: Tensor) -> Tensor:
        """From [-1, 1] to the box."""
        return self.low + (self.high - self.low) * (unit + 1) / 2

    def _score(self, goals: Tensor) -> Tensor:
        """The discriminator's. Shape: ``[n, d]`` to ``[n]``."""
        return self.judge(2 * (goals - self.low) / (self.high - self.low) - 1).squeeze(-1)

    @torch.enable_grad()
    def _train(self, goals: Tensor, label: Tensor, updates: int, generator: torch.Generator) -> None:
        """Some steps of both nets, each with an Adam of its own that starts anew."""
        judges = torch.optim.Adam(self.judge.parameters(), lr=1e-3, fused=True)
        makers = torch.optim.Adam(self.maker.parameters(), lr=1e-3, fused=True)
        for _ in range(updates):
            some = torch.randint(len(goals), (128,), generator=generator, device=goals.device)
            score, y = self._score(goals[some]), label[some]
            made = self._made(128, generator)
            wrong = (self._score(made.detach()) + 1).square().mean()
            judged = (y * (score - 1).square() + (1 - y) * (score + 1).square()).mean() + wrong
            judges.zero_grad()
            judged.backward()
            judges.step()
            fooled = self._score(made).square().mean()
            makers.zero_grad()
            fooled.backward()
            makers.step()
