"""Which ranges of a remote twin make a fitted file."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..container.entries import Tensor
from ..container.hashing import sha256_span
from ..container.layout import Layout
from ..errors import MIB

CHUNK = 16 * MIB  # one request


@dataclass(frozen=True)
class Chunk:
    """A range of the remote file and where it goes."""

    source: int
    target: int
    nbytes: int


def plan_chunks(placed: Iterable[tuple[Tensor, int]], alignment: int) -> list[Chunk]:
    """The ranges to fetch for tensors placed at offsets of the output; neighbours are joined, then cut to CHUNK."""
    runs: list[Chunk] = []
    for tensor, offset in placed:
        start, nbytes = tensor.data.offset, tensor.nbytes
        if runs:
            last = runs[-1]
            gap = start - last.source - last.nbytes
            # the padding between two tensors comes along: cheaper than a request
            if 0 <= gap < alignment and offset - last.target - last.nbytes == gap:
                runs[-1] = Chunk(last.source, last.target, last.nbytes + gap + nbytes)
                continue
        runs.append(Chunk(start, offset, nbytes))
    return [
        Chunk(run.source + at, run.target + at, min(CHUNK, run.nbytes - at))
        for run in runs
        for at in range(0, run.nbytes, CHUNK)
    ]


def fingerprint(layout: Layout, chunks: Sequence[Chunk]) -> str:
    """What a journal is of: the same layout from the same ranges."""
    digest = hashlib.sha256(repr((layout.nbytes, layout.offsets, chunks)).encode())
    for part in layout.head:
        digest.update(sha256_span(part).encode())
    return digest.hexdigest()
