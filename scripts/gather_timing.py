"""Gather time and memory of every rule from Snakemake's benchmark files, and draw them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.plots import BLUE, byte_unit, new_panels, save
from phase_twin.results import write_result
from phase_twin.rule import run_rule

MIB = 2**20
# rules that are drawn; the table has all
LONGEST = 16


def read_jobs(folder: Path, patterns: Mapping[str, str]) -> pd.DataFrame:
    """Read the benchmark files of all jobs that ran, one row each: seconds, MiB, seconds of CPU time.

    Parameters
    ----------
    patterns
        rule -> regular expression of its benchmark files; files of no rule are of an earlier version, and left out.
    """
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        rule = next((name for name, pattern in patterns.items() if re.match(pattern, str(path))), None)
        if rule:
            # "NA" and "-" stand for what was over before it could be seen
            rows += pd.read_csv(path, sep="\t", na_values=["-"]).assign(rule=rule).to_dict("records")
    return pd.DataFrame(rows, columns=["rule", "s", "max_rss", "cpu_time"])


def sum_up(jobs: pd.DataFrame) -> pd.DataFrame:
    """Sum the seconds of each rule's jobs and take the largest memory [bytes], longest rule first."""
    grouped = jobs.groupby("rule")
    table = pd.DataFrame(
        {
            "jobs": grouped.size(),
            "seconds": grouped.s.sum().round(2),
            "longest": grouped.s.max().round(2),
            "cpu_seconds": grouped.cpu_time.sum().round(2),
            "peak_bytes": (grouped.max_rss.max().fillna(0) * MIB).astype(int),
        }
    )
    return table.sort_values("seconds", ascending=False).reset_index()


def duration(seconds: float) -> str:
    """Tell a time as people do: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {:02} s".format(*divmod(round(seconds), 60))
    return "{} h {:02} min".format(*divmod(round(seconds / 60), 60))


def draw(table: pd.DataFrame, title: str) -> plt.Figure:
    """Draw time and peak memory of the longest rules, longest on top."""
    table = table.head(LONGEST)
    figure, (time, memory) = new_panels(2, (7, 1.2 + 0.2 * len(table)))
    size, size_name = byte_unit(table.peak_bytes.max())
    peaks = table.peak_bytes / size
    span, span_name = (3600, "h") if table.seconds.max() > 7200 else (60, "min")
    names = [f"{row.rule} x {row.jobs}" if row.jobs > 1 else row.rule for row in table.itertuples()]
    for axes, values, texts, label in (
        (time, table.seconds / span, map(duration, table.seconds), f"time, all jobs [{span_name}]"),
        (memory, peaks, [f"{peak:.1f}" for peak in peaks], f"peak memory, largest job [{size_name}]"),
    ):
        bars = axes.barh(names, values, color=BLUE)
        axes.bar_label(bars, list(texts), padding=3, fontsize=8)
        axes.set(xlabel=label)
        axes.margins(x=0.35, y=0.01)
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="y", length=0, labelsize=8)
    time.invert_yaxis()
    figure.suptitle(title)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    table = sum_up(read_jobs(Path(snakemake.params.folder), snakemake.params.patterns))
    write_result(snakemake.output.table, table.to_dict("records"), snakemake)
    title = f"{snakemake.params.title}: {duration(table.seconds.sum())} of jobs"
    save(draw(table, title), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
