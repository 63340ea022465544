"""How all plots look, and that the same drawing gives the same bytes."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

# the twin and what is pruned from it are red, what they are compared with is blue
BLUE, RED = "#1b6ca8", "#c2410c"

DPI = 200
# half the side in points of the square that a marker takes up
MARKER = 5
# where a label may stand beside its point, nearest first: (x, y) in points and how it is aligned
SIDES = [
    ((reach * x, reach * y), {1: "left", 0: "center", -1: "right"}[x], {1: "bottom", 0: "center", -1: "top"}[y])
    for reach in (7, 14, 24, 36, 50)
    for x, y in ((1, 1), (-1, -1), (-1, 1), (1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
]


def byte_unit(nbytes: float) -> tuple[int, str]:
    """The unit in which sizes of about `nbytes` are told: its bytes and its name."""
    return (2**30, "GiB") if nbytes > 2**30 else (2**20, "MiB")


def new_panels(count: int, size: tuple[float, float]) -> tuple[plt.Figure, list[plt.Axes]]:
    """A figure of `size` in inches with `count` empty plots beside each other that share their y axis."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "phase-twin"
    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for one in axes[0]:
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
    return figure, list(axes[0])


def new_plot(size: tuple[float, float] = (7, 4.2), **labels: str) -> tuple[plt.Figure, plt.Axes]:
    """An empty plot of `size` in inches; `labels` are xlabel, ylabel, title."""
    figure, (axes,) = new_panels(1, size)
    axes.set(**labels)
    axes.grid(alpha=0.3)
    return figure, axes


def color_key(figure: plt.Figure, colors: Iterable[tuple[Any, str]]) -> None:
    """Say under the plots what the colours mean; `colors` are pairs of a colour of matplotlib's and a text."""
    handles = [Patch(color=color, label=text) for color, text in colors]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def label_points(
    axes: plt.Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[tuple[str, str]],
    line: Sequence[tuple[float, float]] = (),
) -> None:
    """Write beside each point its text, on no other text, point or `line`; the plot must be complete but for these.

    Parameters
    ----------
    points, line
        coordinates of the data; `line` are the corners of one that nothing may cover.
    texts
        pairs of a text and its colour, which tells whose it is where points are close.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    # a label must not move what it was placed among
    figure.set_layout_engine("none")
    dots = [*axes.transData.transform(points), *along(axes.transData.transform(line))]
    half = MARKER * figure.dpi / 72
    taken = [Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half) for x, y in dots]
    if axes.get_legend():
        taken.append(axes.get_legend().get_window_extent())
    for point, (text, color) in zip(points, texts, strict=True):
        for offset, across, up in SIDES:
            style = {"textcoords": "offset points", "xytext": offset, "ha": across, "va": up, "fontsize": 9}
            label = axes.annotate(text, point, color=color, **style)
            place = label.get_window_extent()
            if axes.bbox.count_contains(place.corners()) == 4 and not place.count_overlaps(taken):
                break
            label.remove()
        else:
            axes.add_artist(label)
        taken.append(place)
        if max(map(abs, offset)) > SIDES[0][0][0]:
            # too far from its point to be told apart from others
            arrow = {"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkA": 0}
            axes.annotate("", point, textcoords="offset points", xytext=offset, arrowprops=arrow)


def along(corners: Sequence[tuple[float, float]], steps: int = 40) -> list[tuple[float, float]]:
    """Points on the line through `corners`, `steps` on each of its parts."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        found += [(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps) for step in range(steps)]
    return found


def save(figure: plt.Figure, path: str | Path) -> None:
    """Write an SVG or a PNG without the time of day, or what wrote it, in it."""
    unknown = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=unknown, dpi=DPI)
