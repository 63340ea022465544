"""Gather what each further byte buys: KLD over bytes in the order of the twin, predicted per group and measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

from phase_twin.plots import BLUE, RED, byte_unit, new_plot, save
from phase_twin.positions import Positions
from phase_twin.quality import compare
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

Row = Mapping[str, Any]


def point(row: Row, positions: Positions, low: Positions) -> dict[str, Any]:
    """Bytes, the KLD with its error, and what it is less than with nothing promoted (`low`), paired over the text."""
    saved = compare(low, positions)["kld_mean"]
    return {"bytes": row["bytes"], "kld": row["kld_mean"], "kld_err": row["kld_mean_err"], "saved": saved}


def predict(order: Row, low: Row, high: Row) -> list[dict[str, Any]]:
    """Predict the KLD after each promotion, one tie after the other.

    The benefits are scaled so that the ends are those measured: they come from another text, or are no KLD at all.

    Parameters
    ----------
    order
        a document of rank_groups.
    low, high
        the quality of both phases.
    """
    groups = {group["name"]: group for group in order["groups"]}
    ties = order["promote_tie"] or range(len(groups))
    total = sum(max(group["benefit"], 0.0) for group in groups.values())
    gap = low["kld_mean"] - high["kld_mean"]
    size, saved, promoted = low["bytes"], 0.0, 0
    points = [{"bytes": size, "promoted": 0, "kld_predicted": low["kld_mean"]}]
    last = None
    for name, tie in zip(order["promote_order"], ties, strict=True):
        size += groups[name]["gain_bytes"]
        # the share first: a gap over a total that is almost nothing would be infinite
        saved += gap * (max(groups[name]["benefit"], 0.0) / total) if total else 0.0
        promoted += groups[name]["gain_bytes"] > 0
        if tie == last:
            points.pop()
        points.append({"bytes": size, "promoted": promoted, "kld_predicted": low["kld_mean"] - saved})
        last = tie
    return points


def draw(curve: Row, title: str) -> plt.Figure:
    """Plot the predicted line and the measured points."""
    unit, name = byte_unit(curve["points"][0]["bytes"])
    figure, axes = new_plot(xlabel=f"weights [{name}]", ylabel="mean KLD [nats per token]", title=title)
    predicted, measured = curve["points"], curve["measured"]
    sizes = [row["bytes"] / unit for row in predicted]
    axes.step(sizes, [row["kld_predicted"] for row in predicted], where="post", color=BLUE, label="predicted")
    sizes, klds, errors = ([row[key] for row in measured] for key in ("bytes", "kld", "kld_err"))
    sizes = [size / unit for size in sizes]
    axes.errorbar(sizes, klds, yerr=errors, fmt="o", capsize=3, color=RED, label="measured")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    low, high = map(read_result, snakemake.input.phases)
    order: Sequence[Any] | Any = read_result(snakemake.input.order)
    rows: list[Row] = [low, high, *map(read_result, snakemake.input.rows)]
    positions = [Positions.load(path) for path in (*snakemake.input.phase_positions, *snakemake.input.positions)]
    measured = [point(row, found, positions[0]) for row, found in zip(rows, positions, strict=True)]
    curve = {
        "order": order["method"],
        "reference": low["reference"],
        **{key: low[key] for key in ("chunks", "chunks_asked", "n_ctx")},
        "points": predict(order, low, high),
        "measured": sorted(measured, key=lambda row: row["bytes"]),
    }
    write_result(snakemake.output.curve, curve, snakemake)
    title = f"{snakemake.params.title}: what each further byte buys, {low['chunks']} x {low['n_ctx']} tokens"
    figure = draw(curve, title)
    for path in (snakemake.output.plot, snakemake.output.png):
        save(figure, path)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
