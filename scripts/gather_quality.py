"""Gather the quality rows into one table and draw KLD against size."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.files import write_text
from phase_twin.plots import BLUE, RED, byte_unit, new_plot, save
from phase_twin.rule import run_rule


def draw(table: pd.DataFrame, title: str, ours: Sequence[str]) -> plt.Figure:
    """Plot mean KLD with its error against bytes of weights, one labelled point per row.

    Parameters
    ----------
    ours
        labels drawn apart from stock types; empty: all are phases of one twin, joined by a line.
    """
    unit, name = byte_unit(table.bytes.min())
    ordered = table.sort_values("bytes")
    figure, axes = new_plot(xlabel=f"weights [{name}]", ylabel="mean KLD [nats per token]", title=title)
    for group, color in ((ordered.label.isin(ours), RED), (~ordered.label.isin(ours), BLUE)):
        points = ordered[group]
        style = "o" if len(ours) else "o-"
        axes.errorbar(points.bytes / unit, points.kld_mean, yerr=points.kld_mean_err, fmt=style, capsize=3, color=color)
    # neighbours are close: their labels go to different sides
    sides = itertools.cycle([((8, 8), "left"), ((-8, -14), "right"), ((-8, 8), "right")])
    for (offset, align), (_, row) in zip(sides, ordered.iterrows(), strict=False):
        place = {"textcoords": "offset points", "xytext": offset, "ha": align, "fontsize": 9}
        axes.annotate(row.label, (row.bytes / unit, row.kld_mean), **place)
    axes.set_ylim(bottom=0, top=1.15 * (table.kld_mean + table.kld_mean_err).max())
    axes.margins(x=0.15)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    rows = [json.loads(Path(path).read_text()) for path in snakemake.input.rows]
    write_text(snakemake.output.table, json.dumps(rows, indent=2) + "\n")
    table = pd.DataFrame(rows)
    title = (
        f"{snakemake.params.title}: KLD against {rows[0]['reference']}, {rows[0]['chunks']} x {rows[0]['n_ctx']} tokens"
    )
    save(draw(table, title, snakemake.params.ours), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
