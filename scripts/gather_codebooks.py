"""Gather error and quality of every codebook into one table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from phase_twin.positions import Positions
from phase_twin.quality import difference, errors_of, means
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

FACTS = ("table", "rmse", "rmse_encoder", "reference", "chunks", "chunks_asked", "n_ctx", "kld_mean_err", "top1_err")
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


def differences(rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Sequence[Positions]], base: str) -> list[Any]:
    """Difference in mean KLD of each codebook to `base`, paired over the text; None for itself.

    Its error has two parts: that of other texts, of the means over runs, and that of other runs.
    """
    spread = {row["codebook"]: row["kld_mean_run_err"] for row in rows}
    series = {name: np.mean([means(positions)[:, 0] for positions in found], axis=0) for name, found in runs.items()}
    documents = runs[base][0].documents
    found = []
    for name, values in series.items():
        apart = values - series[base]
        (text,) = errors_of(apart[:, None], documents)
        error = np.sqrt(text**2 + spread[name] ** 2 + spread[base] ** 2)
        found.append(None if name == base else {"to": base, "kld_mean": difference(apart.mean(), error)})
    return found


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    errors, qualities = (
        [read_result(path) for path in paths] for paths in (snakemake.input.errors, snakemake.input.qualities)
    )
    rows = gather(errors, qualities)
    runs: dict[str, list[Positions]] = {}
    for error, path in zip(errors, snakemake.input.positions, strict=True):
        runs.setdefault(error["codebook"], []).append(Positions.load(path))
    found = differences(rows, runs, snakemake.params.compare_to)
    rows = [row | {"difference": one} for row, one in zip(rows, found, strict=True)]
    write_result(snakemake.output.table, rows, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
