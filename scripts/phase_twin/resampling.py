"""Standard errors of means over the chunks of a text, by a bootstrap over blocks of them.

Tokens are far from independent: a chunk of code and one of prose differ by more than their tokens let expect. Blocks of
chunks, or whole documents, are drawn with replacement, and whatever is made of their means spreads as it would over
other texts of this kind.
"""

import math

import numpy as np

DRAWS = 10_000
AT_ONCE = 1000  # of these, for memory
SEED = 257
# fewer documents tell too little of how documents differ
MIN_DOCUMENTS = 8


def block_length(series: np.ndarray) -> int:
    """Length of blocks, in chunks, that keeps what neighbours have in common.

    Twice what the automatic choice of Politis and White (2004, corrected 2009) gives for the circular bootstrap: theirs
    weighs bias and variance alike, and then errors of correlated series come out 10 to 15 % too small. At least the
    cube root of the number of chunks: correlations too weak to be seen one by one add up.

    Parameters
    ----------
    series
        [chunks]
    """
    n = len(series)
    least = round(n ** (1 / 3))
    reach = max(5, math.ceil(math.sqrt(math.log10(n))))
    limit = math.ceil(math.sqrt(n)) + reach
    centered = series - series.mean()
    lags = min(n, 2 * limit + 1)
    covariance = np.array([centered[: n - lag] @ centered[lag:] for lag in range(lags)]) / n
    if covariance[0] <= 0:
        return least
    small = np.abs(covariance[1:] / covariance[0]) < 2 * math.sqrt(math.log10(n) / n)
    # the last lag before so many in a row that are no more than noise
    last = next((lag for lag in range(limit) if small[lag : lag + reach].all()), limit)
    window = min(2 * last, lags - 1, limit)
    if not window:
        return least
    lag = np.arange(-window, window + 1)
    # flat in the middle, falling to nothing at the ends
    weighted = np.clip(2 * (1 - np.abs(lag) / window), 0, 1) * covariance[np.abs(lag)]
    spectrum, slope = weighted.sum(), (np.abs(lag) * weighted).sum()
    if spectrum <= 0:
        return least
    length = 2 * (1.5 * (slope / spectrum) ** 2 * n) ** (1 / 3)
    return min(max(round(length), least), max(n // 3, 1))


def resampled_means(values: np.ndarray, documents: np.ndarray | None = None) -> np.ndarray:
    """Draw the means of several quantities as they would be over other texts, all of one draw over the same text.

    Deviations are widened by what a sample of so few blocks is known to understate, so that the standard deviation of
    a column is the standard error of its mean.

    Parameters
    ----------
    values
        [chunks, quantities]: the mean of each over each chunk; chunks hold equally many positions.
    documents
        [chunks], ascending: number of the document of each chunk. None: blocks of neighbouring chunks, as long as the
        quantity with the longest memory asks for.

    Returns
    -------
    numpy.ndarray
        [DRAWS, quantities]; without spread where there is one chunk.
    """
    n = len(values)
    mean = values.mean(axis=0)
    if n < 2:
        return np.repeat(mean[None], DRAWS, axis=0)
    random = np.random.default_rng(SEED)
    if documents is not None and (count := len(np.unique(documents))) >= MIN_DOCUMENTS:
        starts = np.flatnonzero(np.diff(documents, prepend=documents[0] - 1))
        sums, sizes = np.add.reduceat(values, starts), np.diff(starts, append=n)
        return mean + math.sqrt(count / (count - 1)) * (_draw(sums, sizes, count, random) - mean)
    length = max(map(block_length, values.T))
    # round and round, so that every chunk is in as many blocks
    around = np.concatenate([np.zeros_like(values[:1]), values, values[:length]])
    total = np.cumsum(around, axis=0)
    blocks = (total[length : length + n] - total[:n]) / length
    count = math.ceil(n / length)
    means = _draw(blocks, np.ones(n), count, random)
    return mean + math.sqrt(count * length / (n - length)) * (means - mean)


def _draw(sums: np.ndarray, sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Means over `count` blocks drawn with replacement, [DRAWS, quantities]."""
    found = []
    for _ in range(0, DRAWS, AT_ONCE):
        drawn = random.integers(len(sums), size=(AT_ONCE, count))
        found.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None])
    return np.concatenate(found)


def standard_error(draws: np.ndarray) -> np.ndarray:
    """Standard deviation over draws, [DRAWS, ...]."""
    return draws.std(axis=0, ddof=1)
