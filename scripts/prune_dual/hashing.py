"""SHA-256 of ranges of files, in constant memory."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .container import CHUNK, Span
from .errors import GgufError


def sha256_span(data: Span | bytes, progress: Callable[[int], None] = lambda count: None) -> str:
    """Hex SHA-256 of a range of a file; `progress` is told the count of each piece of bytes.

    Raises
    ------
    GgufError
        if the file cannot be read or ends within the range.
    """
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
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


def forget_cached(path: Path) -> None:
    """Let the next reads come from the disk, where the system can: what is compared is then what was stored."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
