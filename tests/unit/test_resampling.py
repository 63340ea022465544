"""Errors of means over correlated chunks: right on series whose answer is known."""

import numpy as np
import pytest

from phase_twin.resampling import DRAWS, block_length, resampled_means, standard_error

SERIES = 60


def autoregressive(chunks: int, memory: float, random: np.random.Generator) -> np.ndarray:
    """[chunks], standard deviation 1; each value keeps `memory` of the one before."""
    noise = random.standard_normal(chunks)
    series = np.empty(chunks)
    series[0] = noise[0]
    for place in range(1, chunks):
        series[place] = memory * series[place - 1] + np.sqrt(1 - memory**2) * noise[place]
    return series


def error_of_mean(chunks: int, memory: float) -> float:
    """Standard deviation of the mean of such a series, in closed form."""
    lags = np.arange(1, chunks)
    return float(np.sqrt((1 + 2 * ((1 - lags / chunks) * memory**lags).sum()) / chunks))


def error(series: np.ndarray, documents: np.ndarray | None = None) -> float:
    return standard_error(resampled_means(series[:, None], documents))[0]


def root_mean_square(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize(("chunks", "memory"), [(100, 0.0), (100, 0.2), (100, 0.5), (400, 0.3), (1000, 0.8)])
def test_error_over_an_autoregressive_series(chunks, memory):
    random = np.random.default_rng(1)
    found = [error(autoregressive(chunks, memory, random)) for _ in range(SERIES)]
    assert root_mean_square(found) == pytest.approx(error_of_mean(chunks, memory), rel=0.1)


def test_tokens_taken_as_independent_would_be_far_off():
    random = np.random.default_rng(2)
    series = autoregressive(400, 0.8, random)
    assert error(series) > 2 * series.std() / np.sqrt(len(series))


@pytest.mark.parametrize("sizes", [[8] * 50, [2, 5, 12, 20] * 15])
def test_error_over_documents(sizes):
    """Each document is off by an amount of its own, which counts as often as it has chunks."""
    random = np.random.default_rng(3)
    documents = np.repeat(np.arange(len(sizes)), sizes)
    known = np.sqrt(np.square(sizes).sum() * 1.0**2 + len(documents) * 0.5**2) / len(documents)
    found = []
    for _ in range(SERIES):
        offsets = random.standard_normal(len(sizes))
        found.append(error(offsets[documents] + 0.5 * random.standard_normal(len(documents)), documents))
    assert root_mean_square(found) == pytest.approx(known, rel=0.1)


def test_too_few_documents_tell_nothing():
    series = autoregressive(100, 0.3, np.random.default_rng(4))
    assert error(series, np.repeat([0, 1], 50)) == error(series)


def test_blocks_are_as_long_as_what_neighbours_share():
    random = np.random.default_rng(5)
    short, long = (autoregressive(400, memory, random) for memory in (0.0, 0.9))
    assert block_length(short) == 7
    assert 20 <= block_length(long) <= 133
    assert block_length(np.ones(50)) == 4


def test_quantities_of_one_draw_are_over_the_same_text():
    series = autoregressive(100, 0.5, np.random.default_rng(6))
    draws = resampled_means(np.stack([series, 2 * series + 1], axis=1))
    assert draws.shape == (DRAWS, 2)
    assert np.allclose(draws[:, 1], 2 * draws[:, 0] + 1)
    assert np.array_equal(draws, resampled_means(np.stack([series, 2 * series + 1], axis=1)))
    assert draws.mean(axis=0)[0] == pytest.approx(series.mean(), abs=0.01)


def test_one_chunk_has_no_error():
    assert error(np.array([0.3])) == 0
