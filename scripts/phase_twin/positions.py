"""What was measured at every position of a text, for errors and differences: kept beside each row of quality."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from .errors import UserError
from .files import atomic_output

# llama-perplexity -o: a magic, 13 sums of 8 bytes, then each of these as float32 for all positions
MAGIC = b"_kldpart"
HEAD = len(MAGIC) + 13 * 8
VALUES = ("kld", "p_diff", "nll", "nll_base", "same_top")


@dataclass(frozen=True)
class Positions:
    """Values by chunk and position, [chunks, positions], of one model beside the reference.

    Attributes
    ----------
    kld
        nats.
    nll, nll_base
        negative log likelihood of the token that follows, by the model and by the reference; nats.
    same_top
        whether both have the same most likely token.
    documents
        [chunks]: number of each chunk's document; None where the text does not say where documents begin.
    """

    kld: np.ndarray
    nll: np.ndarray
    nll_base: np.ndarray
    same_top: np.ndarray
    documents: np.ndarray | None = None

    @classmethod
    def read_parts(cls, paths: Sequence[str | Path], n_ctx: int, documents: np.ndarray | None) -> Self:
        """Read what llama-perplexity has saved, ranges of chunks of `n_ctx` tokens in their order.

        Raises
        ------
        UserError
            if a file is no such part, or cut.
        """
        per_chunk = n_ctx - 1 - n_ctx // 2
        parts = []
        for path in paths:
            data = Path(path).read_bytes()
            size = len(data) - HEAD
            if not data.startswith(MAGIC) or size < 0 or size % (4 * len(VALUES) * per_chunk):
                raise UserError(f"{path}: not what llama-perplexity saves of chunks of {n_ctx} tokens; run again")
            parts.append(np.frombuffer(data, "<f4", offset=HEAD).reshape(len(VALUES), -1, per_chunk))
        found = dict(zip(VALUES, np.concatenate(parts, axis=1), strict=True))
        same_top = found.pop("same_top") > 0
        del found["p_diff"]  # follows from both likelihoods
        return cls(**found, same_top=same_top, documents=documents)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz; the same values give the same bytes."""
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        with atomic_output(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)
