"""Logits as llama-perplexity --kl-divergence-base saves them: 16-bit log-probabilities, cut 16 nats below the top."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CUT = 16.0  # nats


@dataclass(frozen=True)
class Logits:
    """One distribution for each position of the second half of each chunk, the last position apart.

    Parameters
    ----------
    tokens
        [n_chunks, n_ctx].
    codes
        [n_chunks, n_ctx - 1 - n_ctx // 2, n_vocab + 4], 16 bits; a row begins with its step and its least
        log-probability, as f32.
    """

    tokens: np.ndarray
    codes: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Logits":
        """Read a whole file; the vocabulary must be of even size."""
        data = path.read_bytes()
        assert data[:8] == b"_logits_"
        n_ctx, n_vocab, n_chunks = np.frombuffer(data, "<u4", 3, 8).tolist()
        assert n_vocab % 2 == 0
        tokens = np.frombuffer(data, "<i4", n_chunks * n_ctx, 20)
        codes = np.frombuffer(data, "<u2", offset=20 + tokens.nbytes)
        return cls(tokens.reshape(n_chunks, n_ctx), codes.reshape(n_chunks, -1, n_vocab + 4))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield a chunk's log-probabilities, f64 [n_positions, n_vocab]; what was cut shares the least of its row."""
        for codes in self.codes:
            step, least = np.ascontiguousarray(codes[:, :4]).view("<f4").astype(float).T
            yield normalized(step[:, None] * codes[:, 4:] + least[:, None])

    @property
    def positions(self) -> slice:
        """The places in a chunk whose predictions are saved."""
        n_ctx = self.tokens.shape[1]
        return slice(n_ctx // 2, n_ctx - 1)


def normalized(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits [..., n_vocab]."""
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cut(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits [..., n_vocab] that are cut as those of a file."""
    return normalized(np.maximum(logits, logits.max(-1, keepdims=True) - CUT))


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL divergence D(p || q) in nats, by position, of log-probabilities [..., n_vocab]."""
    return (np.exp(p) * (p - q)).sum(-1)
