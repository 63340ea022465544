"""Chunks of a remote file, brought by several threads."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..progress import Progress
from .chunks import Chunk
from .http import Remote, Stopped
from .journal import Journal

WORKERS = 8
PATIENCE_S = 5.0  # for requests under way, when all must stop


class Fetch:
    """Brings the chunks that the journal lacks, by several threads."""

    def __init__(
        self, remote: Remote, path: Path, chunks: Sequence[Chunk], journal: Journal, progress: Progress | None
    ) -> None:
        self.remote, self.path, self.chunks, self.journal = remote, path, chunks, journal
        self.progress = progress
        self.total = sum(chunk.nbytes for chunk in chunks)

    def run(self) -> None:
        """Return when all chunks are there; the first fault of a thread stops the others and is raised."""
        missing = [n for n, chunk in enumerate(self.chunks) if self.journal.done[n] < chunk.nbytes]
        self.todo, self.stop = deque(missing), threading.Event()
        self.faults: list[BaseException] = []
        # daemons: one that waits for a dead server must not keep the program from ending
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(WORKERS, len(missing)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self.stop.is_set():
                    thread.join(0.1)
        finally:
            self.stop.set()
            deadline = time.monotonic() + PATIENCE_S
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.monotonic()))
        for fault in self.faults:
            if not isinstance(fault, Stopped):
                raise fault

    def _work(self) -> None:
        try:
            while not self.stop.is_set() and self.todo:
                with suppress(IndexError):  # another thread was faster
                    self._bring(self.todo.popleft())
        except BaseException as fault:  # told by the main thread
            self.faults.append(fault)
            self.stop.set()

    def _bring(self, number: int) -> None:
        chunk = self.chunks[number]

        def sink(_offset: int, piece: bytes) -> None:
            self.journal.write(number, piece)
            if self.progress:
                self.progress(self.journal.total, self.total)

        self.remote.fetch(chunk.source + self.journal.done[number], chunk.source + chunk.nbytes, sink, self.stop)
