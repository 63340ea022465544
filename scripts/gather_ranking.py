"""Gather the study of orders of promotion: what each closes of the gap at each budget, and how near the best it is."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from phase_twin.plots import new_plot, save
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

log = logging.getLogger("phase_twin")

Row = Mapping[str, Any]

SCALE = 1e4  # of all benefits, for the solver


def closed(row: Row, low: Row, high: Row) -> dict[str, float]:
    """Percent of the gap between the phases that a measurement closes, with the error of its own KLD alone."""
    gap = low["kld_mean"] - high["kld_mean"]
    share = 100 * (low["kld_mean"] - row["kld_mean"]) / gap
    return {"closed": round(share, 2), "closed_err": round(100 * row["kld_mean_err"] / gap, 2)}


def area(rows: Sequence[Row], low: Row, high: Row) -> float:
    """Mean KLD over all budgets from none to full promotion, by trapezoids: less is better."""
    sizes = [low["bytes"], *(row["bytes"] for row in rows), high["bytes"]]
    klds = [low["kld_mean"], *(row["kld_mean"] for row in rows), high["kld_mean"]]
    return float(np.trapezoid(klds, sizes) / (sizes[-1] - sizes[0]))


def tied(order: Row) -> tuple[np.ndarray, np.ndarray]:
    """Benefit and bytes of what is promoted together."""
    ties = order["promote_tie"] or range(len(order["groups"]))
    sums: dict[int, list[float]] = {}
    for group, tie in zip(order["groups"], ties, strict=True):
        entry = sums.setdefault(tie, [0.0, 0])
        entry[0] += max(group["benefit"], 0.0)
        entry[1] += group["gain_bytes"]
    benefit, size = np.array(list(sums.values())).T
    return benefit, size


def best_benefit(order: Row, room: int) -> float:
    """Return the largest benefit that fits `room` bytes: the exact 0/1 knapsack."""
    benefit, size = tied(order)
    if not (total := benefit.sum()):
        return 0.0
    # the solver's tolerances are absolute; benefits are far below 1
    shares = SCALE * (benefit / total)
    result = milp(
        -shares,
        constraints=LinearConstraint(size[None, :], ub=room),
        integrality=np.ones_like(benefit),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return float(-result.fun / SCALE * total)


def distance(order: Row, rows: Sequence[Row], low: Row) -> list[dict[str, float]]:
    """Return how much of the whole benefit, in percent, the selection rule leaves to the optimum at each budget."""
    benefits = {group["name"]: max(group["benefit"], 0.0) for group in order["groups"]}
    total = sum(benefits.values())
    found = []
    for row in rows:
        taken = sum(benefits[name] for name in row["promoted"])
        best = best_benefit(order, row["budget_bytes"] - low["bytes"])
        found.append(
            {
                "percent": row["percent"],
                "selected": round(100 * taken / total, 3),
                "optimum": round(100 * best / total, 3),
                "gap": round(100 * max(best - taken, 0.0) / total, 3),
            }
        )
    return found


def draw(orders: Sequence[Row], title: str) -> plt.Figure:
    """Plot the closed share of the gap over the share of the bytes, a line per order."""
    labels = {"xlabel": "bytes of full promotion [%]", "ylabel": "KLD gap closed [%]"}
    figure, axes = new_plot(**labels, title=title)
    for order, marker in zip(orders, itertools.cycle("osD^v")):
        rows = order["rows"]
        added = [0.0, *(row["added"] for row in rows), 100.0]
        shares = [0.0, *(row["closed"] for row in rows), 100.0]
        errors = [0.0, *(row["closed_err"] for row in rows), 0.0]
        axes.errorbar(added, shares, yerr=errors, marker=marker, ms=4, capsize=2, lw=1.2, label=order["order"])
    axes.plot([0, 100], [0, 100], color="0.7", lw=0.8, ls="--")
    axes.legend(frameon=False)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    low, high = map(read_result, snakemake.input.phases)
    percents = snakemake.params.percents
    rows = iter(map(read_result, snakemake.input.rows))
    orders = []
    for path in snakemake.input.orders:
        order, measured = read_result(path), list(itertools.islice(rows, len(percents)))
        table = [
            {
                "percent": row["percent"],
                "added": round(100 * (row["bytes"] - low["bytes"]) / (high["bytes"] - low["bytes"]), 2),
                **{key: row[key] for key in ("bytes", "kld_mean", "kld_mean_err", "top1")},
                **closed(row, low, high),
            }
            for row in measured
        ]
        entry = {"order": order["method"], "area": area(measured, low, high), "rows": table}
        orders.append(entry | {"selection": distance(order, measured, low)})
        log.info("%s: mean KLD over all budgets %.5f", order["method"], entry["area"])
    phases = [{key: row[key] for key in ("bytes", "kld_mean", "kld_mean_err")} for row in (low, high)]
    study = {"reference": low["reference"], "chunks": low["chunks"], "phases": phases, "orders": orders}
    write_result(snakemake.output.table, study, snakemake)
    title = f"{snakemake.params.title}: orders of promotion"
    save(draw(orders, title), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
