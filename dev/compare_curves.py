"""Compare the budget curve of a nested twin with that of siblings, at the same loaded bytes.

Both are read from their folders under results/; the table goes to stdout, the picture to OUT.svg.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from gather_ranking import shares
from markdown_table import markdown
from phase_twin.errors import UserError
from phase_twin.plots import BLUE, RED, byte_unit, new_plot, save
from phase_twin.positions import Positions
from phase_twin.quality import difference, errors_of, means
from phase_twin.resampling import resampled_means, standard_error
from phase_twin.results import read_result
from phase_twin.wording import beside, compared

TEXT = ("reference", "n_ctx", "tokens_sha256")  # what a KLD is over


@dataclass(frozen=True)
class Curve:
    """What was measured of a twin, from none to full promotion.

    Attributes
    ----------
    rows
        of each point, in the order of their bytes; `percent` is that of full promotion, 0 and 100 for the phases.
    klds
        [chunks, points]: mean KLD of each over each chunk, nats.
    documents
        [chunks]: as in Positions.
    """

    folder: Path
    rows: Sequence[Mapping[str, Any]]
    klds: np.ndarray
    documents: np.ndarray | None

    @property
    def sizes(self) -> np.ndarray:
        """Loaded bytes of each point, int64 [points]."""
        return np.array([row["bytes"] for row in self.rows])

    @property
    def percents(self) -> list[int]:
        """Percent of full promotion that fits each point's budget."""
        return [row["percent"] for row in self.rows]


def read_curve(folder: Path) -> Curve:
    """Read the points of the curve in a folder of results, both phases and what its order was measured at.

    Raises
    ------
    UserError
        if one is missing, or is not what curve.json was made of.
    """
    try:
        told = read_result(folder / "curve.json")
        paths = {percent: folder / f"bench/quality/variant-{number}.json" for number, percent in enumerate((0, 100))}
        for path in (folder / "bench/orders").glob(f"{told['order']}-*.json"):
            paths[int(path.stem.rpartition("-")[2])] = path
        found = [({**read_result(path), "percent": percent}, path) for percent, path in sorted(paths.items())]
        # a percentage that is no longer asked for leaves its row behind
        measured = {(point["bytes"], point["kld"]) for point in told["measured"]}
        found = [(row, path) for row, path in found if (row["bytes"], row["kld_mean"]) in measured]
        positions = [Positions.load(path.with_suffix(".npz")) for _, path in found]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing: let Snakemake make {folder}/curve.json") from error
    rows = [row for row, _ in found]
    if {(row["bytes"], row["kld_mean"]) for row in rows} != measured or [rows[0]["percent"], rows[-1]["percent"]] != [
        0,
        100,
    ]:
        raise UserError(f"{folder}/curve.json is not made of the rows in bench/ beside it; let Snakemake make it again")
    return Curve(folder, rows, np.stack([means(one)[:, 0] for one in positions], axis=1), positions[0].documents)


def check(siblings: Curve, nested: Curve) -> None:
    """Raise a UserError where curves cannot be compared."""
    first = siblings.rows[0]
    for curve in (siblings, nested):
        for row in curve.rows:
            for key in TEXT:
                if row[key] != first[key]:
                    raise UserError(
                        f"{curve.folder}: {key} is {row[key]} at {row['percent']} %, but {first[key]} in "
                        f"{siblings.folder}; measure both with the same bench.quality"
                    )
    if (least := nested.sizes[0]) < siblings.sizes[0]:
        raise UserError(
            f"{nested.folder}: variant 0 has {least} bytes, fewer than that in {siblings.folder}; "
            "what is no expert must have one type in both"
        )


def at_sizes(curve: Curve, sizes: np.ndarray) -> np.ndarray:
    """KLD of each chunk at other sizes, [chunks, sizes]: on straight lines between points; beyond the last, its own."""
    weights = np.stack([np.interp(sizes, curve.sizes, one) for one in np.eye(len(curve.rows))])
    return curve.klds @ weights


def compare_points(siblings: Curve, nested: Curve) -> list[dict[str, Any]]:
    """Put what siblings have at the bytes of each nested point beside it, with paired differences.

    Returns
    -------
    list
        of each nested point: `percent`, `bytes`, `kld` and `siblings` (pairs of a value and its error), `difference`.
    """
    other = at_sizes(siblings, nested.sizes)
    found = [
        list(zip(values.mean(axis=0), errors_of(values, siblings.documents), strict=True))
        for values in (nested.klds, other, nested.klds - other)
    ]
    return [
        {
            "percent": row["percent"],
            "bytes": row["bytes"],
            "kld": kld,
            "siblings": beside_it,
            "difference": difference(*apart),
        }
        for row, kld, beside_it, apart in zip(nested.rows, *found, strict=True)
    ]


def compare_shares(siblings: Curve, nested: Curve) -> list[dict[str, Any]]:
    """Percent of its own KLD gap that each kind closes at each percentage of its own bytes of promotion.

    Returns
    -------
    list
        of each percentage that both were measured at: `percent`; of siblings and nested `added`, the percent of
        the bytes that its mix takes, and `closed`, pairs of a share and its error; `difference` of the shares.
    """
    curves = (siblings, nested)
    draws = resampled_means(np.hstack([curve.klds for curve in curves]), siblings.documents)
    spreads = [shares(one) for one in np.split(draws, [len(siblings.rows)], axis=1)]
    values = [shares(curve.klds.mean(axis=0)) for curve in curves]
    found = []
    for percent in sorted({*siblings.percents[1:-1]} & {*nested.percents[1:-1]}):
        places = [curve.percents.index(percent) for curve in curves]
        added = [
            100 * (curve.sizes[place] - curve.sizes[0]) / (curve.sizes[-1] - curve.sizes[0])
            for curve, place in zip(curves, places, strict=True)
        ]
        one, two = (value[place - 1] for value, place in zip(values, places, strict=True))
        drawn, other = (spread[:, place - 1] for spread, place in zip(spreads, places, strict=True))
        closed = [(one, standard_error(drawn)), (two, standard_error(other))]
        apart = difference(two - one, standard_error(other - drawn))
        found.append({"percent": percent, "added": added, "closed": closed, "difference": apart})
    return found


def curve_tables(siblings: Curve, nested: Curve) -> str:
    """Return both comparisons as tables in Markdown, with a line that counts where one kind is better."""
    check(siblings, nested)
    unit, name = byte_unit(nested.sizes[0])
    points = compare_points(siblings, nested)
    words = [compared(point["difference"]) for point in points]
    ends = {0: "variant 0", 100: "variant 1"}
    rows = [
        [
            ends.get(point["percent"], f"+{point['percent']} %"),
            f"{point['bytes'] / unit:.2f}",
            *(f"{value:.4f} ± {error:.4f}" for value, error in (point["kld"], point["siblings"])),
            beside(point["difference"], 4),
        ]
        for point in points
    ]
    head = ["nested twin", f"loaded {name}", "mean KLD", "siblings with as many bytes", "difference"]
    counts = f"Of {len(words)} points {words.count('better')} are better than siblings, {words.count('worse')} worse."
    closed = [
        [
            f"+{row['percent']} %",
            *(
                f"{value:.1f} ± {error:.1f} % with {added:.1f} %"
                for (value, error), added in zip(row["closed"], row["added"], strict=True)
            ),
            beside(row["difference"], 1, less_is_better=False),
        ]
        for row in compare_shares(siblings, nested)
    ]
    second = ["budget", "siblings close of their gap", "the nested twin of its own", "difference"]
    return "\n\n".join([markdown(head, rows), counts, markdown(second, closed)])


def draw(siblings: Curve, nested: Curve) -> plt.Figure:
    """Plot both curves over the bytes that are loaded."""
    unit, name = byte_unit(nested.sizes[0])
    first = nested.rows[0]
    model = Path(first["file"]).name.removesuffix("-twin.gguf")
    title = f"{model}: twins of both kinds, {first['chunks']} x {first['n_ctx']} tokens"
    figure, axes = new_plot(xlabel=f"loaded weights [{name}]", ylabel="mean KLD [nats per token]", title=title)
    for curve, color, marker, label in ((siblings, BLUE, "o", "siblings"), (nested, RED, "s", "nested")):
        klds, errors = ([row[key] for row in curve.rows] for key in ("kld_mean", "kld_mean_err"))
        style = {"marker": marker, "ms": 5, "capsize": 3, "lw": 1.2, "color": color}
        axes.errorbar(curve.sizes / unit, klds, yerr=errors, label=label, **style)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Read both folders, print the tables, draw."""
    parser = argparse.ArgumentParser(prog="dev/run compare_curves", description=__doc__)
    parser.add_argument("siblings", type=Path, metavar="SIBLINGS_RESULTS", help="results/NAME of a twin with siblings")
    parser.add_argument("nested", type=Path, metavar="NESTED_RESULTS", help="results/NAME of a nested one")
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    args = parser.parse_args()
    try:
        curves = read_curve(args.siblings), read_curve(args.nested)
        print(curve_tables(*curves))
    except UserError as error:
        raise SystemExit(f"compare_curves: {error}") from None
    save(draw(*curves), args.out)


if __name__ == "__main__":
    main()
