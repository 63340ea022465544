"""Write the figures behind the pictures as tables for the report: one HTML page each."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gather_timing import duration
from phase_twin.card import format_size
from phase_twin.files import write_text
from phase_twin.results import read_result
from phase_twin.rule import run_rule
from phase_twin.wording import beside, signed, speed_text

STYLE = """<!doctype html>
<meta charset="utf-8">
<style>
body { font: 14px sans-serif; margin: 1.5em; color: #222 }
table { border-collapse: collapse }
th, td { padding: 0.3em 0.8em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
</style>
"""

Rows = Sequence[Mapping[str, Any]]


def quality_table(rows: Rows) -> list[dict[str, Any]]:
    """Lay out bench/quality.json."""
    base = next((row["difference"]["to"] for row in rows if row["difference"]), None)

    def apart(row: Mapping[str, Any], key: str, digits: int, less_is_better: bool) -> str:
        return beside(row["difference"][key], digits, less_is_better=less_is_better) if row["difference"] else ""

    columns = [(f"mean KLD to {base}", "kld_mean", 5, True), (f"top-1 to {base} [%]", "top1", 2, False)]
    columns.append((f"ln PPL to {base}", "ln_ppl", 5, True))
    return [
        {
            "": row["label"],
            "weights": format_size(row["bytes"]),
            "expert bits": f"{row['bpw_experts']:.3f}",
            "mean KLD [nats]": f"{row['kld_mean']:.5f} ± {row['kld_mean_err']:.5f}",
            "median KLD": f"{row['kld_median']:.5f}",
            "99 % KLD": f"{row['kld_99']:.3f}",
            "99.9 % KLD": f"{row['kld_p999']:.3f}",
            "largest KLD": f"{row['kld_max']:.2f}",
            "top-1 [%]": f"{row['top1']:.2f} ± {row['top1_err']:.2f}",
            "PPL ratio": f"{row['ppl_ratio']:.4f} ± {row['ppl_ratio_err']:.4f}",
        }
        | ({head: apart(row, *rest) for head, *rest in columns} if base else {})
        for row in rows
    ]


def speed_table(rows: Rows) -> list[dict[str, Any]]:
    """Lay out bench/speed.json."""
    return [
        {
            "": row["label"],
            "test": row["test"],
            "tokens in context": row["depth"],
            "tokens per second": speed_text(row["t_s"], row["stddev"]),
            "device": f"{row['device']} ({row['backend']})",
            "threads": row["threads"],
        }
        for row in rows
    ]


def curve_table(curve: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out curve.json by size: what is predicted after each promotion, and what was measured."""
    predicted = {row["bytes"]: (row["promoted"], f"{row['kld_predicted']:.5f}") for row in curve["points"]}
    measured = {
        row["bytes"]: (f"{row['kld']:.5f} ± {row['kld_err']:.5f}", signed(row["saved"], 5)) for row in curve["measured"]
    }
    rows = []
    for nbytes in sorted(predicted.keys() | measured.keys()):
        # a budget may be filled out of order, by a group further back
        promoted, kld = predicted.get(nbytes, ("", ""))
        row = {"weights": format_size(nbytes), "groups promoted in order": promoted, "mean KLD, predicted": kld}
        kld, saved = measured.get(nbytes, ("", ""))
        rows.append(row | {"mean KLD, measured": kld, "saved by promotion, measured": saved})
    return rows


def timing_table(rows: Rows) -> list[dict[str, Any]]:
    """Lay out report/timing.json."""
    return [
        {
            "rule": row["rule"],
            "jobs": row["jobs"],
            "time, all jobs": duration(row["seconds"]),
            "longest job": duration(row["longest"]),
            "CPU time, all jobs": duration(row["cpu_seconds"]),
            "peak memory, largest job": format_size(row["peak_bytes"]),
        }
        for row in rows
    ]


def kinds_table(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out bench/kinds.json or kind.json."""
    return quality_table(comparison["rows"])


TABLES = {
    "quality": quality_table,
    "speed": speed_table,
    "curve": curve_table,
    "timing": timing_table,
    "kinds": kinds_table,
}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    for name, path in snakemake.output.items():
        rows = TABLES[name](read_result(snakemake.input[name]))
        write_text(path, STYLE + pd.DataFrame(rows).to_html(index=False, border=0) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
