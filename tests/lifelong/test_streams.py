"""Streams and their loop: no example in two parts, scores where they belong, forgetting seen, runs that go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core import Method
from quickstudy.methods.joint.pooled import Pooled
from quickstudy.methods.lifelong.ewc import EWC
from quickstudy.nets import MLP
from quickstudy.tasks.streams import Stream, permuted
from quickstudy.tasks.toy import planted
from quickstudy.training.fit_stream import StreamScores, fit_stream


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(tasks: int = 3) -> tuple[Stream, Tensor]:
    """Eight classes in 16 features, whose order differs from task to task."""
    y = torch.arange(8).repeat(15)
    centres = 2 * torch.randn(8, 16, generator=generator(0))
    x = centres[y] + torch.randn(120, 16, generator=generator(1))
    return Stream(permuted(x, y, tasks, generator(2)), generator(3)), x


def learner(stream: Stream, strength: float | None) -> Method:
    plain = Pooled(stream.problem, MLP((16, 128, 8), generator(4)))
    return plain if strength is None else EWC(plain, strength=strength)


def test_an_example_is_in_the_same_part_of_every_task() -> None:
    stream, x = blobs()
    total = x.sum(1)  # the order of the features does not change it
    test = stream.test(3)

    def examples(rows: Tensor) -> set[int]:
        return {int((total - value).abs().argmin()) for value in rows.sum(-1)}

    parts = [examples(test.query.x[t]) for t in range(3)]
    assert parts[0] == parts[1] == parts[2]
    assert parts[0].isdisjoint(examples(test.support.x[0]))
    assert parts[0].isdisjoint(examples(stream.validation(3).query.x[1]))
    assert not torch.equal(test.query.x[0], test.query.x[1])


def test_each_task_keeps_its_id_and_its_own_examples() -> None:
    stream, _ = blobs()
    episodes = stream.task(2).sample(2, generator(0))
    assert episodes.task is not None and episodes.task.tolist() == [2, 2]
    own = stream.test(3).support.x[2]
    assert bool((torch.cdist(episodes.query.x[0], own).min(1).values < 0.05).all())


def test_the_data_of_a_task_are_all_its_training_examples_once() -> None:
    stream, _ = blobs()
    data, own = stream.data(1, generator(0)), stream.test(2).support
    both = data.support.join(data.query)
    keep = both.weights[0] > 0
    assert int(keep.sum()) == int(own.weights[1].sum())
    near = torch.cdist(both.x[0][keep], own.x[1])
    assert bool((near.min(1).values < 0.05).all()) and len(near.argmin(1).unique()) == len(near)
    assert abs(float(data.support.weights.sum() - data.query.weights.sum())) <= 1


def test_average_and_backward_transfer_by_hand() -> None:
    scores = StreamScores(
        torch.tensor([[0.9, torch.nan, torch.nan], [0.7, 0.8, torch.nan], [0.4, 0.6, 1.0]]), torch.zeros(3)
    )
    assert scores.average == pytest.approx((0.4 + 0.6 + 1.0) / 3)
    assert scores.backward_transfer == pytest.approx(((0.4 - 0.9) + (0.6 - 0.8)) / 2)


def test_scores_are_those_of_tasks_met_so_far() -> None:
    stream, _ = blobs()
    found = fit_stream(learner(stream, None), stream, steps=5, generator=generator(0))
    assert torch.equal(found.scores.isnan(), torch.ones(3, 3).triu(1).bool())
    assert found.penalty_share.tolist() == [0, 0, 0]


def test_ewc_forgets_less_than_plain_training_and_its_penalty_is_seen() -> None:
    stream, _ = blobs()
    plain, held = (
        fit_stream(learner(stream, strength), stream, steps=60, lr=5e-3, generator=generator(0))
        for strength in (None, 100.0)
    )
    assert plain.backward_transfer < -0.1
    assert held.backward_transfer > plain.backward_transfer + 0.1
    assert held.average > plain.average + 0.05
    assert held.penalty_share[0] == 0 and bool((held.penalty_share[1:] > 0.01).all())
    assert torch.equal(plain.scores[0, 0], held.scores[0, 0])  # nothing to hold in the first task


def test_numbers_can_be_streamed_too() -> None:
    stream = Stream(planted(0.0, generator(0), tasks=2, features=4, noise=0.1), generator(1))
    net = nn.Linear(4, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    found = fit_stream(Pooled(stream.problem, net), stream, steps=150, lr=0.1, generator=generator(0))
    assert float(found.scores[0, 0]) > 0.9 and found.backward_transfer < -0.3  # tasks that share nothing


class Killed(Exception):
    pass


def test_a_killed_and_resumed_stream_equals_an_unbroken_one(tmp_path: Path) -> None:
    stream, _ = blobs(2)

    def run(stop: int, folder: Path | None, resume: bool) -> tuple[Method, StreamScores]:
        def progress(done: int, steps: int) -> None:
            assert steps == 300
            if done == stop:
                raise Killed

        method = learner(stream, 10.0)
        found = fit_stream(
            method, stream, steps=150, generator=generator(0), checkpoint=folder, resume=resume, progress=progress
        )
        return method, found

    whole, scores = run(-1, None, False)
    with pytest.raises(Killed):
        run(270, tmp_path, False)
    resumed, after = run(-1, tmp_path, True)
    assert torch.equal(scores.scores.nan_to_num(), after.scores.nan_to_num())
    assert torch.equal(scores.penalty_share, after.penalty_share)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
