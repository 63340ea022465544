"""Gather the quality rows into one table and draw KLD against size."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.plots import BLUE, RED, byte_unit, label_points, new_plot, save
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule


def draw(table: pd.DataFrame, title: str, ours: Sequence[str], joined: bool) -> plt.Figure:
    """Plot mean KLD with its error against bytes of weights, one labelled point per row.

    Parameters
    ----------
    ours
        labels drawn apart from stock types.
    joined
        whether ours are all of one twin, and a line joins them.
    """
    unit, name = byte_unit(table.bytes.min())
    table = table.assign(size=table.bytes / unit).sort_values("size")
    figure, axes = new_plot(xlabel=f"weights [{name}]", ylabel="mean KLD [nats per token]", title=title)
    theirs = table[~table.label.isin(ours)]
    own = table[table.label.isin(ours)]
    what = "the twin and what is pruned from it" if joined else "with IQ3_A770"
    for points, color, text in ((own, RED, what), (theirs, BLUE, "stock types")):
        style = "o-" if joined and points is own else "o"
        if len(points):
            errors = points.kld_mean_err
            axes.errorbar(points["size"], points.kld_mean, errors, fmt=style, capsize=3, color=color, label=text)
    axes.set_ylim(bottom=0, top=1.2 * (table.kld_mean + table.kld_mean_err).max())
    axes.margins(x=0.15)
    axes.legend(frameon=False, loc="upper right")
    places = list(zip(table["size"], table.kld_mean, strict=True))
    line = list(zip(own["size"], own.kld_mean, strict=True)) if joined else []
    texts = [(label, RED if label in ours else BLUE) for label in table.label]
    label_points(axes, places, texts, line)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    rows = [read_result(path) for path in snakemake.input.rows]
    write_result(snakemake.output.table, rows, snakemake)
    table = pd.DataFrame(rows)
    title = (
        f"{snakemake.params.title}: KLD against {rows[0]['reference']}, {rows[0]['chunks']} x {rows[0]['n_ctx']} tokens"
    )
    figure = draw(table, title, snakemake.params.ours, snakemake.params.joined)
    for path in (snakemake.output.plot, snakemake.output.png):
        save(figure, path)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
