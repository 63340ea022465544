"""Blocks taken apart and put together: bytes of several ranges in turn."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import MIB, GgufError
from ..files import write_all
from .entries import Strand, Woven

STEP = MIB  # of the larger of what is read and written at a time: more leaves the processor's cache


def read_strand(file: BinaryIO, strand: Strand, n_blocks: int | None = None) -> Iterator[np.ndarray]:
    """Yield uint8 [blocks, strand.width], `n_blocks` blocks at a time, of the open file of `strand`.

    It is a view of memory that is used again for the next ones. Raises a GgufError if the file ends within the strand.
    """
    n_blocks = n_blocks or max(1, STEP // strand.block)
    buffer = np.empty((n_blocks, strand.block), np.uint8)
    at, end = strand.span.offset, strand.span.offset + strand.span.nbytes
    while at < end:
        blocks = buffer[: min(n_blocks, (end - at) // strand.block)]
        _fill(file, strand.span.path, at, memoryview(blocks).cast("B"))
        yield blocks[:, strand.first : strand.first + strand.width]
        at += blocks.nbytes


def _fill(file: BinaryIO, path: Path, at: int, view: memoryview) -> None:
    """Read what `view` has room for from byte `at` of an unbuffered file on."""
    file.seek(at)
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise GgufError(f"{path}: became shorter while it was read")
        view = view[count:]


def woven_blocks(files: list[BinaryIO], woven: Woven) -> Iterator[np.ndarray]:
    """Yield uint8 [blocks, woven.block], some blocks at a time, of the open files of the strands.

    The memory is used again for the next ones.
    """
    n_blocks = max(1, STEP // max(woven.block, *(strand.block for strand in woven.strands)))
    strands = [read_strand(file, strand, n_blocks) for file, strand in zip(files, woven.strands, strict=True)]
    # a piece of a block is one element of its own type: twice as fast to copy as a row of bytes
    blocks = np.empty(n_blocks, [(str(n), f"V{strand.width}") for n, strand in enumerate(woven.strands)])
    for pieces in zip(*strands, strict=True):
        written = blocks[: len(pieces[0])]
        for name, piece in zip(blocks.dtype.names, pieces, strict=True):
            written[name] = piece.view(blocks.dtype[name])[:, 0]
        yield written.view(np.uint8).reshape(len(written), woven.block)


def write_strand(out: BinaryIO, target: int, block: int, width: int, at: int, piece: bytes) -> None:
    """Write a piece of a strand between what `out` holds of the others.

    Parameters
    ----------
    out
        open for reading and writing, unbuffered.
    target
        where in it the strand begins; `width` bytes stand there, and in each of the next `block` bytes.
    at
        bytes of the strand before the piece.
    """
    first = at // width
    n_blocks = -(-(at + len(piece)) // width) - first
    blocks = np.empty((n_blocks, block), np.uint8)
    # up to the end of the strand's last bytes, which may be that of the file
    region, start = memoryview(blocks).cast("B")[: blocks.nbytes - block + width], target + first * block
    _fill(out, Path(out.name), start, region)
    strand = blocks[:, :width].flatten()
    strand[at - first * width :][: len(piece)] = np.frombuffer(piece, np.uint8)
    blocks[:, :width] = strand.reshape(n_blocks, width)
    out.seek(start)
    write_all(out, region)
