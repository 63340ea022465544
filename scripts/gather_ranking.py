"""Gather the study of orders of promotion: what each closes of the gap at each budget, and how near the best it is."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from phase_twin.plots import new_plot, save
from phase_twin.positions import Positions
from phase_twin.quality import difference, means
from phase_twin.resampling import resampled_means, standard_error
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

log = logging.getLogger("phase_twin")

Row = Mapping[str, Any]

SCALE = 1e4  # of all benefits, for the solver


def shares(klds: np.ndarray) -> np.ndarray:
    """Percent of the gap between the phases that is closed, [..., rows], from KLDs [..., low, rows, high]."""
    low, high = klds[..., :1], klds[..., -1:]
    return 100 * (low - klds[..., 1:-1]) / (low - high)


def area(klds: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Mean KLD over all budgets from none to full promotion, by trapezoids: less is better.

    Parameters
    ----------
    klds
        [..., low, rows, high]
    sizes
        bytes of each.
    """
    return np.trapezoid(klds, sizes, axis=-1) / (sizes[-1] - sizes[0])


def measured_orders(
    methods: Sequence[str], rows: Sequence[Sequence[Row]], klds: np.ndarray, draws: np.ndarray, base: str
) -> list[dict[str, Any]]:
    """Say what each order closes of the gap and its mean over all budgets, with errors over the text.

    Parameters
    ----------
    rows
        the measurements of each order, with both phases at the ends.
    klds, draws
        [orders, measurements] and [DRAWS, orders, measurements]: mean KLDs, and as they would be over other texts, all
        orders of a draw over the same one.
    base
        the order to which the others' differences are given.
    """
    areas = [
        (area(klds[n], [row["bytes"] for row in of]), area(draws[:, n], [row["bytes"] for row in of]))
        for n, of in enumerate(rows)
    ]
    named = methods.index(base)
    found = []
    for number, (method, of) in enumerate(zip(methods, rows, strict=True)):
        low, high = of[0], of[-1]
        closed, errors = shares(klds[number]), standard_error(shares(draws[:, number]))
        table = [
            {
                "percent": row["percent"],
                "added": round(100 * (row["bytes"] - low["bytes"]) / (high["bytes"] - low["bytes"]), 2),
                **{key: row[key] for key in ("bytes", "kld_mean", "kld_mean_err", "top1")},
                "closed": round(float(share), 2),
                "closed_err": round(float(error), 2),
            }
            for row, share, error in zip(of[1:-1], closed, errors, strict=True)
        ]
        value, spread = areas[number]
        apart = difference(value - areas[named][0], standard_error(spread - areas[named][1]))
        entry = {"order": method, "area": float(value), "area_err": float(standard_error(spread)), "rows": table}
        found.append(entry | {"difference": None if number == named else {"to": base, "area": apart}})
    return found


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
    given, percents = snakemake.input, snakemake.params.percents
    documents = list(map(read_result, given.orders))
    measured = iter(map(read_result, given.rows))
    rows = [[low, *itertools.islice(measured, len(percents)), high] for _ in documents]
    positions = [Positions.load(path) for path in (*given.phase_positions, *given.positions)]
    values = np.stack([means(one)[:, 0] for one in positions], axis=1)
    # both phases come first and are the ends of every order
    places = np.arange(2, values.shape[1]).reshape(len(documents), -1)
    places = np.pad(places, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1)))
    draws = resampled_means(values, positions[0].documents)
    methods = [order["method"] for order in documents]
    orders = measured_orders(methods, rows, values.mean(axis=0)[places], draws[:, places], snakemake.params.compare_to)
    for entry, order, of in zip(orders, documents, rows, strict=True):
        entry["selection"] = distance(order, of[1:-1], low)
        log.info("%s: mean KLD over all budgets %.5f ± %.5f", entry["order"], entry["area"], entry["area_err"])
    phases = [{key: row[key] for key in ("bytes", "kld_mean", "kld_mean_err")} for row in (low, high)]
    study = {key: low[key] for key in ("reference", "chunks", "chunks_asked", "n_ctx")}
    study |= {"phases": phases, "orders": orders}
    write_result(snakemake.output.table, study, snakemake)
    title = f"{snakemake.params.title}: orders of promotion, {low['chunks']} x {low['n_ctx']} tokens"
    save(draw(orders, title), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
