"""Score the groups from measured mixes: the KLD that each saves, fitted to what all of them show."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from phase_twin.positions import Positions
from phase_twin.quality import difference, means
from phase_twin.resampling import resampled_means, standard_error
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule

log = logging.getLogger("phase_twin")


def fit_benefits(
    rows: Sequence[Mapping[str, Any]], together: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], float, float]:
    """Fit KLD = base - sum of the benefits of what is promoted, by least squares with benefits that are not negative.

    What a group saves alone and what it saves as the last one agree within their errors; the fit takes about the mean
    of the two, which has less noise than either.

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
    kld = np.array([row["kld_mean"] for row in rows])
    solution, residual = nnls(design(rows, together), kld)
    benefit = dict(zip(together, map(float, solution[1:]), strict=True))
    return benefit, float(solution[0]), float(residual / np.sqrt(len(rows)))


def design(rows: Sequence[Mapping[str, Any]], together: Mapping[str, Sequence[str]]) -> np.ndarray:
    """What KLD is a sum of: [mixes, 1 + labels], of the base and, negative, of each benefit."""
    promoted = [[set(names) <= set(row["promoted"]) for names in together.values()] for row in rows]
    return np.hstack([np.ones((len(rows), 1)), -np.array(promoted, float)])


def benefit_errors(
    rows: Sequence[Mapping[str, Any]], together: Mapping[str, Sequence[str]], draws: np.ndarray
) -> dict[str, float]:
    """Standard error over the text of each label's benefit; `draws` are KLDs over other texts, [DRAWS, mixes]."""
    found = standard_error(draws @ np.linalg.pinv(design(rows, together)).T)
    return dict(zip(together, map(float, found[1:]), strict=True))


def sums(
    rows: Sequence[Mapping[str, Any]],
    together: Mapping[str, Sequence[str]],
    values: np.ndarray,
    draws: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Add up what each label saves alone, and what as the last one, as shares of what all save together.

    Parameters
    ----------
    values, draws
        mean KLD of each mix, [mixes], and as it would be over other texts, [DRAWS, mixes].

    Returns
    -------
    dict
        `alone` and `last` (`share`, `err`); `difference` of alone to last (`diff`, `err`, `z`).
    """
    place = {frozenset(row["promoted"]): number for number, row in enumerate(rows)}
    every = frozenset(name for names in together.values() for name in names)
    none, full = place[frozenset()], place[every]
    only = [place[frozenset(names)] for names in together.values()]
    without = [place[every - set(names)] for names in together.values()]

    def shares(kld: np.ndarray) -> np.ndarray:
        gap = kld[..., none] - kld[..., full]
        alone = (kld[..., [none]] - kld[..., only]).sum(axis=-1) / gap
        last = (kld[..., without] - kld[..., [full]]).sum(axis=-1) / gap
        return np.stack([alone, last, alone - last], axis=-1)

    (alone, last, apart), errors = shares(values), standard_error(shares(draws))
    found = {
        name: {"share": float(share), "err": float(error)}
        for name, share, error in zip(("alone", "last"), (alone, last), errors, strict=False)
    }
    return found | {"difference": difference(apart, errors[-1])}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above; params.together: label -> groups."""
    together = snakemake.params.together
    rows = [read_result(path) for path in snakemake.input.rows]
    benefit, base, rms = fit_benefits(rows, together)
    values = np.stack([means(Positions.load(path))[:, 0] for path in snakemake.input.positions], axis=1)
    draws = resampled_means(values)
    errors = benefit_errors(rows, together, draws)

    def shared(found: Mapping[str, float]) -> dict[str, float]:
        # of a tie only the sum counts: members share it
        return {name: found[label] / len(names) for label, names in together.items() for name in names}

    document = {"method": "measured", "benefit": shared(benefit), "benefit_err": shared(errors)}
    document |= {"kld_base": base, "kld_rms": rms}
    document |= {key: rows[0][key] for key in ("chunks", "chunks_asked", "n_ctx")}
    document |= {"sums": sums(rows, together, values.mean(axis=0), draws)}
    write_result(snakemake.output.scores, document, snakemake)
    log.info("%d mixes fitted to %.5f nats per token (root mean square)", len(rows), rms)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
