"""Gather the quality rows into one table, with the difference of each to a named one, and draw KLD against size."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.plots import BLUE, RED, byte_unit, label_points, new_plot, save
from phase_twin.positions import Positions
from phase_twin.quality import compare
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule


def with_differences(
    rows: Sequence[Mapping[str, Any]], positions: Sequence[Positions], base: str | None
) -> list[dict[str, Any]]:
    """Add to each row its differences to the one labelled `base`: `difference`, with its label under `to`.

    They are paired over the text, as `phase_twin.quality.compare` has them. The row itself has none, and None says so;
    so it is for all rows where `base` is None.
    """
    named = next((found for row, found in zip(rows, positions, strict=True) if row["label"] == base), None)
    return [
        {**row, "difference": None if named is None or row["label"] == base else {"to": base, **compare(found, named)}}
        for row, found in zip(rows, positions, strict=True)
    ]


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
    positions = [Positions.load(path) for path in snakemake.input.positions]
    rows = with_differences(list(map(read_result, snakemake.input.rows)), positions, snakemake.params.compare_to)
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
