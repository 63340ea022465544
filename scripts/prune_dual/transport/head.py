"""The head of a remote file, fetched as it is read."""

import os
from pathlib import Path
from typing import BinaryIO

from ..errors import MIB, GgufError, amount
from .http import Remote

FIRST_BLOCK, LARGEST_BLOCK = 64 << 10, 2 * MIB  # of the head; it grows, as most of a head is one vocabulary
MAX_HEAD = 256 * MIB


class Head:
    """A file object over the start of the remote file, kept in a local one that grows as it is read."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote, self.path, self.at = remote, path, 0
        self.block = FIRST_BLOCK

    def __enter__(self) -> "Head":
        self.file: BinaryIO = open(self.path, "r+b")
        self.have = os.fstat(self.file.fileno()).st_size
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, nbytes: int) -> bytes:
        """Read, fetching what is not there yet."""
        self._need(self.at + nbytes)
        self.file.seek(self.at)
        data = self.file.read(nbytes)
        self.at += len(data)
        return data

    def seek(self, nbytes: int, _whence: int) -> int:
        """Skip forward; what is skipped is fetched too, as it may be looked at later."""
        self.at += nbytes
        self._need(self.at)
        return self.at

    def _need(self, end: int) -> None:
        if end > MAX_HEAD:
            raise GgufError(f"{self.remote.address}: its head is larger than {amount(MAX_HEAD)}: not a model's")
        while self.have < end:
            self.block = min(2 * self.block, LARGEST_BLOCK)
            stop = min(max(end, self.have + self.block), self.remote.size or 0)
            self.file.seek(self.have)
            self.remote.fetch(self.have, stop, self._append)
            self.file.flush()
            self.have = stop

    def _append(self, _offset: int, piece: bytes) -> None:
        self.file.write(piece)
