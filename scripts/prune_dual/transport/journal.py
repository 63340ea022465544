"""What of a file that is being fetched is safely on disk, so that a later run can go on."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from ..errors import MIB
from .chunks import Chunk

SYNC_EVERY = 64 * MIB  # bytes that may be on disk without the journal's knowing


class Journal:
    """Bytes of each chunk that are safely on disk.

    The file's first line names the plan; each other one says how many bytes of a chunk are there, the last wins.
    """

    def __init__(self, path: Path, data: Path, plan: str, chunks: Sequence[Chunk], resumable: bool) -> None:
        self.path, self.data, self.plan, self.chunks = path, data, plan, chunks
        self.done = [0] * len(chunks)
        self.mutex = threading.Lock()
        self.waiting: dict[int, int] = {}
        self.unsynced = 0
        if not (resumable and data.exists() and self._load()):
            data.write_bytes(b"")
            path.write_text(f"{plan}\n", encoding="ascii")
        self.total = sum(self.done)

    def _load(self) -> bool:
        try:
            plan, *lines = self.path.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            return False
        if plan != self.plan:
            return False
        for line in lines:
            with suppress(ValueError, IndexError):  # a line that an interruption cut
                number, nbytes = map(int, line.removesuffix(".").split()) if line.endswith(".") else ()
                self.done[number] = min(nbytes, self.chunks[number].nbytes)
        return True

    def __enter__(self) -> Self:
        self.file = open(self.path, "a", encoding="ascii")
        self.out = open(self.data, "r+b", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            self.file.close()
            self.out.close()

    def write(self, number: int, piece: bytes) -> None:
        """Put the next piece of a chunk to its place in the data."""
        with self.mutex:
            self.chunks[number].put(self.out, self.done[number], piece)
            self.done[number] += len(piece)
            self.total += len(piece)
            self.waiting[number] = self.done[number]
            self.unsynced += len(piece)
            if self.unsynced >= SYNC_EVERY:
                self._sync()

    def forget(self, number: int) -> None:
        """Note that a chunk's bytes are worth nothing."""
        with self.mutex:
            self.total -= self.done[number]
            self.done[number] = self.waiting[number] = 0

    def sync(self) -> None:
        """Bring data and journal to the disk, in this order."""
        with self.mutex:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self.out.fileno())
        self.file.writelines(f"{number} {nbytes}.\n" for number, nbytes in self.waiting.items())
        self.file.flush()
        self.waiting.clear()
        self.unsynced = 0
