"""SHA-256 of ranges of files, in constant memory."""

import hashlib
from collections.abc import Callable

import numpy as np

from ..errors import GgufError
from ..files import CHUNK
from .entries import Span, Strand
from .weaving import read_strand


def sha256_span(data: Span | Strand | bytes, progress: Callable[[int], None] = lambda count: None) -> str:
    """Hex SHA-256 of a range of a file, or of a strand of it; `progress` is told the count of each piece of bytes.

    Raises
    ------
    GgufError
        if the file cannot be read or ends within the range.
    """
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    if isinstance(data, Strand):
        return _sha256_strand(data, progress)
    digest, left = hashlib.sha256(), data.nbytes
    try:
        with open(data.path, "rb", buffering=0) as file:
            file.seek(data.offset)
            while left:
                block = file.read(min(CHUNK, left))
                if not block:
                    raise GgufError(f"{data.path}: became shorter while it was read")
                digest.update(block)
                progress(len(block))
                left -= len(block)
    except OSError as error:
        raise GgufError(f"{data.path}: {error.strerror}") from error
    return digest.hexdigest()


def _sha256_strand(strand: Strand, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    try:
        with open(strand.span.path, "rb", buffering=0) as file:
            for piece in read_strand(file, strand):
                digest.update(np.ascontiguousarray(piece))
                progress(piece.nbytes)
    except OSError as error:
        raise GgufError(f"{strand.span.path}: {error.strerror}") from error
    return digest.hexdigest()
