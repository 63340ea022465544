"""How all plots look, and that the same drawing gives the same bytes."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

BLUE, RED = "#1b6ca8", "#c2410c"


def byte_unit(nbytes: int) -> tuple[int, str]:
    """The unit in which sizes of about `nbytes` are told: its bytes and its name."""
    return (2**30, "GiB") if nbytes > 2**30 else (2**20, "MiB")


def new_plot(**labels: str) -> tuple[plt.Figure, plt.Axes]:
    """An empty plot; `labels` are xlabel, ylabel, title."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "phase-twin"
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: plt.Figure, path: str | Path) -> None:
    """Write an SVG without the time of day in it."""
    figure.savefig(path, metadata={"Date": None})
