"""Put the large phase of a nested twin beside what siblings would have in its place, on one text.

snakemake.input: rows and positions of each measurement, the refined phase first, then its sibling, then others.
snakemake.params: titles (of the rows), margin (see `phase_twin.quality.excess`).
"""

from typing import Any

from gather_quality import with_differences
from phase_twin.positions import Positions
from phase_twin.quality import excess
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    given, params = snakemake.input, snakemake.params
    rows = [read_result(path) | {"label": title} for path, title in zip(given.rows, params.titles, strict=True)]
    positions = [Positions.load(path) for path in given.positions]
    result = {
        "rows": with_differences(rows, positions, params.titles[0]),
        "margin": params.margin,
        "excess": excess(positions[0], positions[1], params.margin),
    }
    write_result(snakemake.output.table, result, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
