"""Which ranges of a remote twin make a fitted file."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ..container.entries import Strand, Tensor
from ..container.hashing import sha256_span
from ..container.layout import Layout
from ..container.weaving import write_strand
from ..errors import MIB
from ..files import write_all

CHUNK = 16 * MIB  # one request


@dataclass(frozen=True)
class Chunk:
    """A range of the remote file and where it goes: from `target` on, after each `width` bytes to the next block.

    With the defaults it goes there in one piece.
    """

    source: int
    target: int
    nbytes: int
    width: int = 1
    block: int = 1

    @property
    def whole(self) -> bool:
        """Whether it goes to its place in one piece."""
        return self.width == self.block

    def put(self, out: BinaryIO, at: int, piece: bytes) -> None:
        """Write a piece of the range, from its byte `at` on, to the unbuffered file `out`."""
        if self.whole:
            out.seek(self.target + at)
            write_all(out, piece)
        else:
            write_strand(out, self.target, self.block, self.width, at, piece)

    def cut(self) -> Iterator["Chunk"]:
        """The same in chunks of at most CHUNK bytes, each of whole blocks."""
        step = max(1, CHUNK // self.width) * self.width
        for at in range(0, self.nbytes, step):
            target = self.target + at // self.width * self.block
            yield replace(self, source=self.source + at, target=target, nbytes=min(step, self.nbytes - at))


def plan_chunks(placed: Iterable[tuple[Tensor, int]], alignment: int) -> list[Chunk]:
    """The ranges to fetch for tensors placed at offsets of the output; neighbours are joined, then cut to CHUNK."""
    runs: list[Chunk] = []
    for tensor, offset in placed:
        for span, place in zip(tensor.sources, tensor.within(Path(), offset), strict=True):
            if isinstance(place, Strand):
                target = place.span.offset + place.first
                runs.append(Chunk(span.offset, target, span.nbytes, place.width, place.block))
            else:
                _append(runs, Chunk(span.offset, place.offset, span.nbytes), alignment)
    return [chunk for run in runs for chunk in run.cut()]


def _append(runs: list[Chunk], run: Chunk, alignment: int) -> None:
    """Add a range that goes to its place in one piece, joined to the last one where that is its neighbour."""
    if runs and runs[-1].whole:
        last = runs[-1]
        gap = run.source - last.source - last.nbytes
        # the padding between two tensors comes along: cheaper than a request
        if 0 <= gap < alignment and run.target - last.target - last.nbytes == gap:
            runs[-1] = replace(last, nbytes=last.nbytes + gap + run.nbytes)
            return
    runs.append(run)


def fingerprint(layout: Layout, chunks: Sequence[Chunk]) -> str:
    """What a journal is of: the same layout from the same ranges."""
    digest = hashlib.sha256(repr((layout.nbytes, layout.offsets, chunks)).encode())
    for part in layout.head:
        digest.update(sha256_span(part).encode())
    return digest.hexdigest()
