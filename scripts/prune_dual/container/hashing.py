"""SHA-256 of ranges of files, in constant memory."""

import hashlib
from collections.abc import Callable

from ..errors import GgufError
from ..files import CHUNK
from .entries import Span


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
