"""The pictures of a report. Plain data in, a matplotlib Figure out: they work in notebooks too.

Blue stands for sharing and vermilion for learning alone (Okabe and Ito's colours, which colour-blind readers can tell
apart); shape or weight says the same once more.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SHARED, ALONE, INK, QUIET, FAINT = "#0072B2", "#D55E00", "#1a1a1a", "#6b6b6b", "#dddddd"
PALE = {SHARED: "#a9cfe6", ALONE: "#f3c8a6"}
WORDS = {True: "learned from other tasks", False: "each task alone"}
WIDTH = 5.2  # inches: half a desktop page, and still legible when a phone shrinks it
SIZE = 10.0  # points
NAMED = 40  # most tasks that get a line with a name
SQUARE = 20  # most tasks of a heat map whose columns are named too
MARKERS = "osD^vPX*hp<>"


def score_intervals(
    names: Sequence[str],
    mean: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    shares: Sequence[bool],
    *,
    metric: str = "score",
    chosen: Sequence[str] = (),
) -> Figure:
    """A dot and its interval for each method, from top to bottom in the given order.

    Args:
        names: the methods.
        mean: their scores, NaN where there is none.
        low: lower ends of the intervals; not finite where not known.
        high: upper ends.
        shares: whether each learned from other tasks.
        metric: the score's name.
        chosen: names to set in bold, their dots filled.

    Shape:
        all ``[methods]``.
    """
    centre, left, right = _array(mean), _array(low), _array(high)
    figure, axes = _figure(0.95 + 0.31 * len(names))
    start, end = _window(np.concatenate([centre, left, right]), keep="high")
    axes.set_xlim(start, end)
    for row, name in enumerate(names):
        colour, marker = _kind(shares[row])
        filled = colour if name in chosen else "white"
        if not math.isfinite(centre[row]):
            axes.text(start, row, " no score", va="center", color=QUIET, fontsize=SIZE - 1)
            continue
        if centre[row] < start:
            axes.text(start, row, f" ← {centre[row]:.2f}", va="center", color=colour, fontsize=SIZE - 1)
            continue
        if math.isfinite(left[row]) and math.isfinite(right[row]):
            axes.plot([left[row], right[row]], [row, row], color=colour, lw=2, solid_capstyle="butt")
        axes.plot(centre[row], row, marker, color=colour, mfc=filled, ms=7.5, mew=1.8, clip_on=False, zorder=3)
    _name_rows(axes, names, bold=chosen)
    axes.set_xlabel(f"{metric}, mean over tasks", fontsize=SIZE)
    axes.grid(axis="x", color=FAINT, lw=0.7)
    _legend(figure, [_handle(WORDS[kind], _kind(kind)[0], marker=_kind(kind)[1]) for kind in _kinds(shares)])
    return figure


def task_differences(
    names: Sequence[str],
    difference: ArrayLike,
    *,
    helped: Sequence[str] = (),
    hurt: Sequence[str] = (),
    mean: tuple[float, float, float] | None = None,
    metric: str = "score",
    method: str = "shared",
    reference: str = "alone",
) -> Figure:
    """What sharing changes in each task, sorted; strong colours where that is certain.

    Up to 40 tasks have a line and a name each; with more, the bars are thin and stand without names.

    Args:
        names: the tasks.
        difference: shared minus alone, ``[tasks]``.
        helped: tasks that are certainly better off.
        hurt: tasks that are certainly worse off.
        mean: mean difference and its interval (mean, low, high).
        metric: the score's name.
        method: the shared method.
        reference: the method it is compared with.
    """
    values = _array(difference)
    order = [int(i) for i in np.argsort(-values, kind="stable") if math.isfinite(values[i])]
    few = len(order) <= NAMED
    figure, axes = _figure(1.35 + 0.19 * max(len(order), 3) if few else 6.6)
    certain = {*helped, *hurt}
    start, end = _window(np.append(values, 0.0), reach=8)
    axes.set_xlim(start, end)
    if mean is not None and math.isfinite(mean[1]) and math.isfinite(mean[2]):
        axes.axvspan(mean[1], mean[2], color=FAINT, alpha=0.8, lw=0, zorder=0)
    for row, i in enumerate(order):
        strong = SHARED if values[i] > 0 else ALONE
        colour = strong if names[i] in certain else PALE[strong]
        axes.barh(row, values[i], height=0.72 if few else 1.0, color=colour, edgecolor=colour, lw=0 if few else 0.4)
        if not start <= values[i] <= end:  # the bar is cut: its value in figures
            edge, side, text = (start, "left", "← {:+.2f}") if values[i] < start else (end, "right", "{:+.2f} →")
            axes.text(edge, row, text.format(values[i]), ha=side, va="center", fontsize=SIZE - 2, color=INK)
    axes.axvline(0, color=INK, lw=1)
    if mean is not None:
        axes.axvline(mean[0], color=INK, lw=1.2, ls=(0, (4, 2)))
    if few:
        _name_rows(axes, [names[i] for i in order], bold=certain, size=SIZE - 1)
    else:
        axes.set_ylim(len(order), -1)
        axes.yaxis.set_major_locator(NullLocator())
        axes.set_ylabel(f"{len(order)} tasks, sorted", fontsize=SIZE)
    axes.set_xlabel(f"{metric}: {_short(method)} minus {_short(reference)}", fontsize=SIZE)
    axes.grid(axis="x", color=FAINT, lw=0.7)
    handles = _difference_legend(values[order], len(helped), len(hurt), mean)
    _legend(figure, handles, columns=2)
    return figure


def learning_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    shares: Mapping[str, bool],
    *,
    metric: str = "score",
    baseline: float | None = None,
    baseline_name: str = "best alone",
) -> Figure:
    """Validation score against training step, a panel for each method: seeds thin, their mean thick.

    Args:
        curves: for each method, and each seed, the steps and the scores.
        shares: whether each learned from other tasks.
        metric: the score's name.
        baseline: a score to draw as a dashed line in every panel.
        baseline_name: what that line is.
    """
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(WIDTH, 0.85 + 1.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    everything = _array([score for seeds in curves.values() for _, scores in seeds for score in scores])
    bottom, top = _window(everything, reach=1.5, keep="high")
    if baseline is not None and math.isfinite(baseline):  # the line is always to be seen
        bottom, top = min(bottom, baseline - 0.05 * (top - bottom)), max(top, baseline + 0.05 * (top - bottom))
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (name, seeds) in zip(panels.flat, curves.items(), strict=False):
        _bare(axes, size=SIZE - 1.5)
        colour, _ = _kind(shares[name])
        axes.set_ylim(bottom, top)
        axes.grid(color=FAINT, lw=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if baseline is not None:
            axes.axhline(baseline, color=QUIET, lw=1.1, ls=(0, (4, 2)))
        for steps, scores in seeds:
            axes.plot(steps, scores, color=colour, lw=0.8, alpha=0.5)
        common = sorted(set.intersection(*(set(steps) for steps, _ in seeds)))
        middle = np.mean([[dict(zip(*seed, strict=True))[step] for step in common] for seed in seeds], axis=0)
        axes.plot(common, middle, color=colour, lw=2, marker="o" if len(common) == 1 else "")
        axes.set_title(_short(name, 15), color=colour, fontsize=SIZE - 0.5, fontweight="bold")
    for axes in panels.flat[max(0, len(curves) - columns) : len(curves)]:  # the last panel of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("training step", fontsize=SIZE - 1.5)
    figure.supylabel(f"validation {metric}", fontsize=SIZE, color=INK)
    several = max(map(len, curves.values())) > 1
    handles = [_handle("mean over seeds", INK, lw=2), _handle("one seed", INK, lw=0.8)] if several else []
    if baseline is not None:
        handles.append(_handle(_short(baseline_name, 30), QUIET, lw=1.1, ls=(0, (4, 2))))
    if handles:
        _legend(figure, handles)
    return figure


def error_curves(
    sweeps: Mapping[str, Mapping[int, float]],
    shares: Mapping[str, bool],
    *,
    metric: str = "score",
    chosen: Sequence[str] = (),
    trained_at: int = 0,
) -> Figure:
    """Error, one minus the score, against the number of labelled examples of a new task.

    Args:
        sweeps: for each method, the score at each number of examples.
        shares: whether each learned from other tasks.
        metric: the score's name.
        chosen: names to draw thick.
        trained_at: the number of examples that training used; 0 draws no line there.
    """
    figure, axes = _figure(4.4)
    errors = {n: {k: 1 - s for k, s in sorted(sweep.items()) if math.isfinite(s)} for n, sweep in sweeps.items()}
    errors = {name: points for name, points in errors.items() if points}
    shots = sorted({k for points in errors.values() for k in points})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(shots))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(shots[0] / 1.15, shots[-1] * 1.08)
    values = _array([error for points in errors.values() for error in points.values()])
    bottom, top = _window(values, keep="low")
    axes.set_ylim(bottom, top)
    if trained_at:
        early = trained_at <= shots[len(shots) // 2]
        axes.axvline(trained_at, color=QUIET, lw=1, ls=(0, (1, 2)), zorder=0)
        axes.annotate(
            f"trained with {trained_at}",
            (trained_at, 1),
            (4 if early else -4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            ha="left" if early else "right",
            fontsize=SIZE - 1.5,
            color=QUIET,
        )
    ends = [list(points.values())[-1] for points in errors.values()]
    places = _apart(np.clip(_array(ends), bottom, top), (top - bottom) * 0.058, bottom, top)
    for i, (name, points) in enumerate(errors.items()):
        colour, _ = _kind(shares[name])
        thick = name in chosen
        x, y = list(points), list(points.values())
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=colour, lw=2.4 if thick else 1.1, marker=marker, ms=5.5, mfc=colour if thick else "white")
        axes.annotate(
            _short(name, 18),
            (x[-1], min(max(y[-1], bottom), top)),
            (shots[-1] * 1.22, places[i]),
            fontsize=SIZE - 1,
            fontweight="bold" if thick else "normal",
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 4},
        )
    axes.set_xlabel("labelled examples of the new task", fontsize=SIZE)
    axes.set_ylabel(f"error (1 - {metric})", fontsize=SIZE)
    axes.grid(color=FAINT, lw=0.7)
    _legend(figure, [_handle(WORDS[kind], _kind(kind)[0], lw=2) for kind in _kinds([shares[n] for n in errors])])
    return figure


def task_affinity(matrix: ArrayLike, names: Sequence[str], *, metric: str = "score") -> Figure:
    """A heat map: row i is what was learned on task i alone, column j the task that it was tried on.

    Tasks are ordered by average-linkage clustering of their rows and columns, so that tasks that serve each other form
    blocks on the diagonal. Colours are cut at the 5th percentile, lest one hopeless pair hide all else.

    Args:
        matrix: scores ``[tasks, tasks]``.
        names: the tasks.
        metric: the score's name.
    """
    scores = _array(matrix)
    order = affinity_order(scores)
    n = len(order)
    finite = scores[np.isfinite(scores)]
    low, high = (float(np.quantile(finite, 0.05)), float(finite.max())) if finite.size else (0.0, 1.0)
    cut = bool(finite.size and finite.min() < low)
    ordered = [_short(names[i], 14) for i in order]
    below = 0.075 * max(map(len, ordered)) if n <= SQUARE else 0.0
    height = max(0.155 * n, 1.6)
    figure, axes = _figure(1.2 + height + below)
    image = axes.imshow(
        scores[np.ix_(order, order)], cmap="cividis", vmin=low, vmax=max(high, low + 1e-9),
        aspect="auto", interpolation="none",
    )  # fmt: skip
    size = SIZE - 1 if n <= SQUARE else SIZE - 2.5
    axes.set_yticks(range(n), ordered, fontsize=size)
    if n <= SQUARE:
        axes.set_xticks(range(n), ordered, fontsize=size, rotation=90)
    else:
        axes.set_xticks([])
    axes.set_xlabel("tried on" if n <= SQUARE else "tried on (same order as the rows)", fontsize=SIZE)
    axes.set_ylabel("learned on", fontsize=SIZE)
    axes.tick_params(length=0)
    bar = figure.colorbar(
        image,
        ax=axes,
        location="top",
        fraction=0.12 / height,
        pad=0.06 / height,
        aspect=40,
        extend="min" if cut else "neither",
    )
    bar.set_label(metric, fontsize=SIZE)
    bar.ax.tick_params(labelsize=SIZE - 1)
    bar.outline.set_visible(False)
    return figure


def affinity_order(matrix: ArrayLike) -> list[int]:
    """The order of tasks that puts those with like rows and columns side by side. ``[tasks, tasks]`` to ``[tasks]``."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    scores = _array(matrix)
    if len(scores) < 3 or not np.isfinite(scores).any():
        return list(range(len(scores)))
    # far below the middle, how far no longer matters
    scores = np.where(np.isfinite(scores), scores, np.nanmin(scores[np.isfinite(scores)]))
    scores = scores.clip(np.quantile(scores, 0.05))
    scores = scores - scores.mean(0)  # who serves a task, not how easy the task is
    profile = np.concatenate([scores, scores.T], 1)
    return [int(i) for i in leaves_list(linkage(profile, "average", optimal_ordering=True))]


def svg(figure: Figure, name: str, alt: str) -> str:
    """A figure as SVG to stand inside a web page, the same bytes every time.

    Args:
        figure: what to draw.
        name: of letters, digits and hyphens; put before every id, so that several figures may share a page.
        alt: what the picture shows, in words.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # the text stays text: the reader's browser has glyphs that the font used for the layout lacks
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # inside HTML neither namespaces nor prefixes are needed
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(key.rpartition("}")[2], _own(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _own(key: str, value: str, name: str) -> str:
    """An attribute's value with ids made this figure's own."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return value.replace("url(#", f"url(#{name}-")


def _array(values: ArrayLike | Sequence[float | None]) -> Array:
    """As numbers; None becomes NaN."""
    return np.asarray(values, dtype=np.float64)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes, size: float = SIZE - 0.5) -> None:
    """No frame where none is needed, and grid lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=size, color=QUIET, labelcolor=INK)
    axes.set_axisbelow(True)


def _kind(shares: bool) -> tuple[str, str]:
    """Colour and marker."""
    return (SHARED, "o") if shares else (ALONE, "s")


def _kinds(shares: Sequence[bool]) -> list[bool]:
    """Which kinds there are, those that share first."""
    return [kind for kind in (True, False) if kind in shares]


def _short(name: str, most: int = 22) -> str:
    """A name as a label: one line, not too long, and a dollar sign is no mathematics."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    clean = clean if len(clean) <= most else clean[: most - 1] + "…"
    return clean.replace("$", r"\$")


def _name_rows(axes: Axes, names: Sequence[str], bold: Sequence[str] | set[str] = (), size: float = SIZE) -> None:
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=size)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name in bold else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _difference_legend(values: Array, helped: int, hurt: int, mean: tuple[float, float, float] | None) -> list[Line2D]:
    """Colours with how many tasks they stand for; classes without a task are left out."""
    up, down = int((values > 0).sum()) - helped, int((values < 0).sum()) - hurt
    counts = [
        ("certainly helped", helped, SHARED),
        ("certainly hurt", hurt, ALONE),
        ("higher, not certain", up, PALE[SHARED]),
        ("lower, not certain", down, PALE[ALONE]),
        ("equal", int((values == 0).sum()), FAINT),
    ]
    handles = [_handle(f"{what}: {n}", colour, lw=7) for what, n, colour in counts if n > 0]
    if mean is not None:
        what = "mean, 95 % interval" if math.isfinite(mean[1]) else "mean"
        handles.append(_handle(what, INK, lw=1.2, ls=(0, (4, 2))))
    return handles


def _handle(label: str, colour: str, **style: object) -> Line2D:
    style = {"lw": 0, "ms": 7} | style
    return Line2D([], [], color=colour, label=label, **style)  # type: ignore[arg-type]


def _legend(figure: Figure, handles: list[Line2D], columns: int = 3) -> None:
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=SIZE - 1,
        handletextpad=0.8, columnspacing=1.4,
    )  # fmt: skip
    text: Text
    for text in legend.get_texts():
        text.set_color(INK)


def _window(values: ArrayLike, reach: float = 3.0, keep: Literal["high", "low", ""] = "") -> tuple[float, float]:
    """Limits that show ``values`` with some air, but let what lies far from the bulk fall outside.

    Far is ``reach`` times the distance between the quartiles, beyond them. The side to ``keep`` is never cut.
    """
    shown = _array(values)
    shown = shown[np.isfinite(shown)]
    if not len(shown):
        return 0.0, 1.0
    first, third = np.quantile(shown, [0.25, 0.75])
    far = reach * (third - first) or np.inf
    low = shown.min() if keep == "low" else max(shown.min(), first - far)
    high = shown.max() if keep == "high" else min(shown.max(), third + far)
    air = 0.06 * (high - low) or 0.05
    return float(low - air), float(high + air)


def _apart(places: Array, gap: float, low: float, high: float) -> list[float]:
    """Places for labels, in the same order and close to where they belong, but at least ``gap`` apart.

    Neighbours that are too close become a group that is spread around its mean; groups that then touch are joined.
    """
    order = np.argsort(places, kind="stable")
    groups: list[list[float]] = []
    for place in places[order].tolist():
        groups.append([place])
        while len(groups) > 1 and _spread(groups[-1], gap)[0] - _spread(groups[-2], gap)[-1] < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    spread = np.array([place for group in groups for place in _spread(group, gap)])
    if len(spread):
        spread -= max(0.0, spread[-1] - high)
        spread += max(0.0, low - spread[0])
    result = np.empty(len(places))
    result[order] = spread
    return [float(place) for place in result]


def _spread(group: list[float], gap: float) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + gap * (i - (len(group) - 1) / 2) for i in range(len(group))]
