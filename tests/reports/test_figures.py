"""Figures: drawn from plain data, the same bytes every time, and valid inside a page."""

import math
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from quickstudy.reports import figures


def scores(mean: list[float]) -> Figure:
    values = np.array(mean)
    names = [f"method {i}" for i in range(len(mean))]
    return figures.score_intervals(names, values, values - 0.02, values + 0.02, [i % 2 == 0 for i in range(len(mean))])


def words(figure: Figure) -> str:
    """All text of a figure."""
    return " ".join(ElementTree.fromstring(figures.svg(figure, "x", "")).itertext())


def test_scores_are_dots_at_their_values() -> None:
    axes = scores([0.5, 0.6]).axes[0]
    dots = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() in ("o", "s")]
    assert dots == [[0.5], [0.6]]


def test_a_hopeless_score_is_written_and_does_not_squash_the_others() -> None:
    figure = scores([0.7, 0.69, 0.68, 0.66, 0.65, -40.0])
    assert figure.axes[0].get_xlim()[0] > 0
    assert "← -40.00" in words(figure)


def test_the_best_score_is_never_cut() -> None:
    assert scores([0.95, 0.301, 0.3, 0.3, 0.299, 0.298]).axes[0].get_xlim()[1] > 0.95


def test_a_score_that_is_not_known_is_called_so() -> None:
    assert "no score" in words(scores([0.7, math.nan]))


def test_differences_are_sorted_and_counted() -> None:
    figure = figures.task_differences(["a", "b", "c", "d"], [-0.1, 0.3, 0.1, 0.0], helped=["b"], mean=(0.1, 0.0, 0.2))
    assert [bar.get_width() for bar in figure.axes[0].patches if hasattr(bar, "get_width")][-4:] == [
        0.3,
        0.1,
        0.0,
        -0.1,
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c", "d", "a"]
    text = words(figure)
    assert "certainly helped: 1" in text
    assert "higher, not certain: 1" in text
    assert "lower, not certain: 1" in text
    assert "equal: 1" in text
    assert "certainly hurt" not in text


@pytest.mark.parametrize("n", [1, 40, 41, 200])
def test_any_number_of_tasks_has_a_bar_each(n: int) -> None:
    figure = figures.task_differences([f"t{i}" for i in range(n)], np.linspace(-1, 1, n))
    bars = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_width")]
    assert len(bars) == n
    assert figure.get_size_inches()[1] < 10


def test_a_panel_for_each_method_and_a_thin_line_for_each_seed() -> None:
    curves = {"a": [([1, 2], [0.1, 0.3]), ([1, 2], [0.3, 0.5])], "b": [([1, 2], [0.2, 0.2])]}
    figure = figures.learning_curves(curves, {"a": True, "b": False}, baseline=0.9)
    first = figure.axes[0]
    assert first.get_title() == "a"
    assert [list(np.asarray(line.get_ydata())) for line in first.lines[1:]] == [
        [0.1, 0.3],
        [0.3, 0.5],
        [pytest.approx(0.2), pytest.approx(0.4)],
    ]
    assert first.get_ylim()[1] > 0.9


def test_error_is_one_minus_the_score_on_a_binary_scale() -> None:
    figure = figures.error_curves({"a": {1: 0.5, 4: 0.75}}, {"a": True}, trained_at=4)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    curve = next(line for line in axes.lines if line.get_marker() == "o")
    assert np.asarray(curve.get_xdata()).tolist() == [1, 4]
    assert np.asarray(curve.get_ydata()).tolist() == [0.5, 0.25]
    assert "trained with 4" in words(figure)


def test_affinity_puts_groups_together() -> None:
    group = np.array([0, 1, 0, 1, 0, 1])
    easy = np.array([5.0, 5.0, 0.0, 0.0, 0.0, 5.0])  # of the task that is tried: no sign of kinship
    ordered = group[figures.affinity_order((group[:, None] == group) + easy)]
    assert (np.diff(ordered) != 0).sum() == 1


@pytest.mark.parametrize("matrix", [[[0.5]], [[0.5, 0.1], [0.2, 0.5]], np.full((4, 4), np.nan), np.full((5, 5), 0.5)])
def test_small_and_empty_matrices_have_a_picture(matrix: np.ndarray) -> None:
    names = [f"t{i}" for i in range(len(matrix))]
    assert "tried on" in words(figures.task_affinity(matrix, names))


def test_svg_is_the_same_every_time_and_changes_no_setting() -> None:
    before = dict(mpl.rcParams)
    assert figures.svg(scores([0.5, 0.6]), "a", "alt") == figures.svg(scores([0.5, 0.6]), "a", "alt")
    assert dict(mpl.rcParams) == before


def test_svg_ids_are_its_own_and_all_references_resolve() -> None:
    markup = figures.svg(scores([0.5, 0.6, math.nan]), "mine", 'a "quoted" <alt>')
    root = ElementTree.fromstring(markup)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name is not None and name.startswith("mine-") for name in ids)
    used = set(re.findall(r"url\(#([^)]*)\)", markup)) | set(re.findall(r'href="#([^"]*)"', markup))
    assert used
    assert used <= set(ids)
    assert root.get("aria-label") == 'a "quoted" <alt>'
    assert "http" not in markup


@pytest.mark.parametrize("name", ["$x^2$", "$", r"\$\alpha$ $", "<b>", "学校 🙂", "a\nb\x00c"])
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    text = words(figures.task_differences([name, "other"], [0.1, -0.1]))
    assert "".join(c if c.isprintable() else " " for c in name) in text


def test_labels_are_moved_apart_and_no_further_than_needed() -> None:
    places = figures._apart(np.array([0.5, 0.5, 0.9, 0.1]), 0.1, 0.0, 1.0)
    assert places == pytest.approx([0.45, 0.55, 0.9, 0.1])
    crowded = figures._apart(np.array([0.0, 0.01, 0.02]), 0.1, 0.0, 1.0)
    assert crowded == pytest.approx([0.0, 0.1, 0.2])
