"""What is said of a measurement and of the difference between two: values with errors over the text."""

import math

import numpy as np

from .positions import Positions
from .resampling import resampled_means, standard_error


def rounded(value: float) -> float:
    """Digits that mean something, in nats or percent."""
    return round(float(value), 8)


def means(positions: Positions) -> np.ndarray:
    """Means over each chunk, [chunks, 3]: KLD [nats], same top token [0 to 1], ln of the PPL ratio."""
    return np.stack(
        [
            positions.kld.mean(axis=1, dtype=np.float64),
            positions.same_top.mean(axis=1, dtype=np.float64),
            (positions.nll.astype(np.float64) - positions.nll_base).mean(axis=1),
        ],
        axis=1,
    )


def errors_of(values: np.ndarray, documents: np.ndarray | None) -> np.ndarray:
    """Standard error of the mean of each column of [chunks, quantities], each with blocks of its own length."""
    return np.array([standard_error(resampled_means(column[:, None], documents))[0] for column in values.T])


def describe(positions: Positions) -> dict[str, float]:
    """Statistics of one measurement; top1 in percent, KLD in nats per token, `*_err` standard errors over the text."""
    values = means(positions)
    kld, top1, ln_ratio = values.mean(axis=0)
    kld_err, top1_err, ln_ratio_err = errors_of(values, positions.documents)
    median, p99, p999 = np.quantile(positions.kld.astype(np.float64), (0.5, 0.99, 0.999))
    ratio = math.exp(ln_ratio)
    row = {"kld_mean": kld, "kld_mean_err": kld_err, "kld_median": median, "kld_99": p99, "kld_p999": p999}
    row |= {"kld_max": positions.kld.max(), "top1": 100 * top1, "top1_err": 100 * top1_err}
    row |= {"ppl_ratio": ratio, "ppl_ratio_err": ratio * ln_ratio_err}
    return {key: rounded(value) for key, value in row.items()}


def difference(value: float, error: float) -> dict[str, float]:
    """A difference, its standard error, and how many of these it is: `diff`, `err`, `z`."""
    return {"diff": rounded(value), "err": rounded(error), "z": round(float(value / error), 2) if error > 0 else 0.0}


def compare(positions: Positions, base: Positions) -> dict[str, dict[str, float]]:
    """Differences of a measurement to another one over the same text, paired: what both suffer from cancels.

    Returns
    -------
    dict
        `kld_mean` [nats], `top1` [percent], `ln_ppl` (ln of the ratio of perplexities), each as `difference` has it.
    """
    values = means(positions) - means(base)
    kld, top1, ln_ppl = zip(values.mean(axis=0), errors_of(values, base.documents), strict=True)
    return {
        "kld_mean": difference(*kld),
        "top1": difference(*(100 * value for value in top1)),
        "ln_ppl": difference(*ln_ppl),
    }


def excess(positions: Positions, base: Positions, margin: float) -> dict[str, float]:
    """How far the mean KLD [nats] lies above 1 + `margin` times that of `base`: paired, as `difference` has it."""
    values = means(positions)[:, :1] - (1 + margin) * means(base)[:, :1]
    return difference(values.mean(), errors_of(values, base.documents)[0])
