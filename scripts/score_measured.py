"""Score the groups from measured mixes: the KLD that each saves, fitted to what all of them show."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

log = logging.getLogger("phase_twin")


def fit_benefits(
    rows: Sequence[Mapping[str, Any]], together: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], float, float]:
    """Fit KLD = base - sum of the benefits of what is promoted, by least squares with benefits that are not negative.

    A promotion is worth more while much is still wrong, so a group alone saves more than the same group as the last
    one; the fit takes the mean of the two, which is what counts half way.

    Parameters
    ----------
    rows
        `promoted` (names of groups) and `kld_mean` of each mix.
    together
        label -> groups that are promoted together.

    Returns
    -------
    (benefit, base, rms)
        nats per token by label; the KLD with nothing promoted; the root mean square of what the fit leaves.
    """
    labels = list(together)
    promoted = np.array([[set(together[label]) <= set(row["promoted"]) for label in labels] for row in rows])
    kld = np.array([row["kld_mean"] for row in rows])
    design = np.hstack([np.ones((len(rows), 1)), -promoted.astype(float)])
    solution, residual = nnls(design, kld)
    benefit = dict(zip(labels, map(float, solution[1:]), strict=True))
    return benefit, float(solution[0]), float(residual / np.sqrt(len(rows)))


def main(snakemake: Any) -> None:
    """Map the rule to the functions above; params.together: label -> groups."""
    together = snakemake.params.together
    rows = [read_result(path) for path in snakemake.input.rows]
    benefit, base, rms = fit_benefits(rows, together)
    # of a tie only the sum counts: members share it
    shares = {name: benefit[label] / len(names) for label, names in together.items() for name in names}
    document = {"method": "measured", "benefit": shares, "kld_base": base, "kld_rms": rms, "chunks": rows[0]["chunks"]}
    write_result(snakemake.output.scores, document, snakemake)
    log.info("%d mixes fitted to %.5f nats per token (root mean square)", len(rows), rms)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
