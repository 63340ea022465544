"""Gather error and quality of every codebook into one table."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

FACTS = ("table", "rmse", "rmse_encoder", "reference", "chunks", "n_ctx", "kld_mean_err", "top1_err")
MEASURED = ("kld_mean", "kld_p999", "top1", "ppl_ratio")


def gather(errors: Iterable[dict[str, Any]], qualities: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per codebook, in the order of their first runs.

    Parameters
    ----------
    errors, qualities
        rows of encode_codebook and of measure_quality, one of each per run; two runs or more per codebook.

    Returns
    -------
    list
        What is measured are means over runs, with their standard errors in `*_run_err`: these tell codebooks apart.
        All else is of run 0, among it `kld_mean_err` and `top1_err`, errors over the text that all rows share.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for error, quality in zip(errors, qualities, strict=True):
        runs.setdefault(error["codebook"], []).append(quality | error)
    rows = []
    for name, found in runs.items():
        row = {"codebook": name, "runs": len(found)} | {key: found[0][key] for key in FACTS}
        for key in MEASURED:
            values = [one[key] for one in found]
            row[key] = float(np.mean(values))
            row[f"{key}_run_err"] = float(np.std(values, ddof=1) / np.sqrt(len(values)))
        rows.append(row)
    return rows


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    errors, qualities = (
        [read_result(path) for path in paths] for paths in (snakemake.input.errors, snakemake.input.qualities)
    )
    write_result(snakemake.output.table, gather(errors, qualities), snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
