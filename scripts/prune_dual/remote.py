"""A fitted file from a twin that is somewhere else: of the twin's bytes, only the head and the winners' are fetched.

While a file OUT is fetched, the folder .OUT.fetch beside it holds all that a later run needs to go on: `source.json`
(which remote file), `head` (its first bytes), `data` (OUT as far as it is), `journal` (which chunks of it are there).
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from .container import Gguf, Span, Tensor
from .errors import MIB, GgufError, amount
from .hashing import forget_cached, sha256_span
from .manifest import Manifest, TensorHash, verify_copy, wrong_hash
from .plain import plain_layout
from .selection import Selection
from .transport import Remote, Stopped
from .twin import Twin
from .writing import Layout, Progress, check_output, check_space, require_lock, write_all

log = logging.getLogger("prune-dual")

CHUNK = 16 * MIB  # one request
WORKERS = 8
FIRST_BLOCK, LARGEST_BLOCK = 64 << 10, 2 * MIB  # of the head; it grows, as most of a head is one vocabulary
MAX_HEAD = 256 * MIB
SYNC_EVERY = 64 * MIB  # bytes that may be on disk without the journal's knowing
PATIENCE_S = 5.0  # for requests under way, when all must stop


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


class RemoteSource:
    """A twin at an address, opened by `open_remote`."""

    def __init__(self, remote: Remote, folder: Path, *, legacy_type_42: bool) -> None:
        self.remote, self.folder = remote, folder
        first = remote.first(FIRST_BLOCK)
        self._begin(first)
        with _Head(remote, folder / "head") as head:
            assert remote.size is not None, "told by the first block"
            gguf = Gguf.read_remote(head, remote.size, remote.address, head.path, legacy_type_42=legacy_type_42)
        self.twin = Twin.of(gguf)

    @property
    def where(self) -> str:
        """What messages call the twin."""
        return str(self.remote.address)

    def neighbour(self, name: str, limit: int) -> bytes | None:
        """The file `name` beside the twin, if there is one."""
        return self.remote.small(limit, name)

    def fetched_nbytes(self, selection: Selection) -> int:
        """Bytes that `write` has to fetch in all, the head included."""
        placed = plain_layout(self.twin, selection).placed
        return self.twin.gguf.data_start + sum(c.nbytes for c in plan_chunks(placed, self.twin.gguf.alignment))

    def begun(self, out: Path) -> Path:
        """Where the bytes of `out` are until it is complete."""
        return _folder(out) / "data"

    def write(
        self,
        selection: Selection,
        out: Path,
        *,
        force: bool = False,
        manifest: Manifest | None = None,
        verify: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Fetch the selected variants to the plain GGUF `out`; return its size in bytes.

        With a manifest each tensor is compared with its hash there, before the file gets its name; `verify` insists on
        a manifest.

        Raises
        ------
        GgufError
            if the server, the disk or the content is not as it must be; what was fetched is kept where it can serve.
        KeyboardInterrupt
            with a message, once the state for going on is on disk.
        """
        if verify:
            self._required(manifest)
        check_output(out, [], force)
        layout = plain_layout(self.twin, selection)
        entries = manifest.expected(self.twin.gguf, layout.tensors) if manifest else None
        chunks = plan_chunks(layout.placed, self.twin.gguf.alignment)
        data = self.folder / "data"
        try:
            plan = _fingerprint(layout, chunks)
            resumable = bool(self.remote.validator or manifest)
            with _Journal(self.folder / "journal", data, plan, chunks, resumable) as journal:
                os.truncate(data, layout.nbytes)
                check_space(out, layout.nbytes, data)
                fetch = _Fetch(self.remote, data, chunks, journal, progress)
                if journal.total:
                    log.info("%s: going on: %s of %s are there", self.where, amount(journal.total), amount(fetch.total))
                fetch.run()
                _write_around(data, layout)
                if entries:
                    self._verify(layout, entries, chunks, journal, fetch)
                journal.sync()
            data.replace(out)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what was fetched is kept in {self.folder}; run the same again to go on") from None
        except OSError as error:
            raise GgufError(
                f"{out}: cannot be written: {error.strerror or error}; what was fetched is kept in {self.folder}"
            ) from error
        shutil.rmtree(self.folder)
        return layout.nbytes

    def verify(self, path: Path, layout: Layout, manifest: Manifest | None, progress: Progress | None = None) -> None:
        """Compare the written file at `path` with the manifest, which must be there."""
        entries = self._required(manifest).expected(self.twin.gguf, layout.tensors)
        verify_copy(path, layout, entries, progress, with_source=False)

    def _required(self, manifest: Manifest | None) -> Manifest:
        if manifest is None:
            raise GgufError(
                f"{self.where}: --verify needs a manifest, and there is no manifest.json beside the twin; "
                "name one with --manifest, or leave out --verify"
            )
        return manifest

    def _verify(
        self,
        layout: Layout,
        entries: Sequence[TensorHash],
        chunks: Sequence[Chunk],
        journal: "_Journal",
        fetch: "_Fetch",
    ) -> None:
        """Compare every tensor with the manifest; fetch those that differ once more."""
        path, placed = fetch.path, layout.placed
        suspects = list(range(len(placed)))
        for attempt in (1, 2):
            journal.sync()
            forget_cached(path)
            found = {n: sha256_span(Span(path, placed[n][1], placed[n][0].nbytes)) for n in suspects}
            suspects = [n for n in suspects if found[n] != entries[n].sha256]
            if not suspects:
                return
            ranges = [(placed[n][1], placed[n][1] + placed[n][0].nbytes) for n in suspects]
            for number, chunk in enumerate(chunks):
                if any(chunk.target < end and start < chunk.target + chunk.nbytes for start, end in ranges):
                    journal.forget(number)
            if attempt == 1:
                first = entries[suspects[0]]
                log.warning(
                    "%s: tensor %r is not what the manifest says (%d such): fetching again",
                    self.where,
                    first.name,
                    len(suspects),
                )
                fetch.run()
                _write_around(path, layout)
        raise wrong_hash(entries[suspects[0]], found[suspects[0]], self.where)

    def _begin(self, first: bytes) -> None:
        """Keep what an earlier run left if it is of the same file; else start from nothing."""
        remote, note, head = self.remote, self.folder / "source.json", self.folder / "head"
        facts = {"url": str(remote.address), "bytes": remote.size, "validator": remote.validator}
        earlier = None
        if note.exists():
            with suppress(ValueError, OSError):
                earlier = json.loads(note.read_bytes())
        same = earlier == facts and head.exists()
        if same:
            with open(head, "rb") as file:
                same = file.read(len(first)) == first
        if same:
            return
        if earlier is not None:
            log.warning("%s: not the file that an earlier run began to fetch: starting over", remote.address)
        for name in ("journal", "data"):
            (self.folder / name).unlink(missing_ok=True)
        head.write_bytes(first)
        note.write_text(json.dumps(facts) + "\n", encoding="utf-8")


@contextmanager
def open_remote(location: str, out: Path | None, *, legacy_type_42: bool = False) -> Iterator[RemoteSource]:
    """Yield the twin at an address, of which only the head is read.

    Parameters
    ----------
    out
        the file that will be written: what is fetched is kept beside it until it is complete. None for a look only.

    Raises
    ------
    GgufError
        if it cannot be fetched or is no twin, or another run is writing `out`.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="prune-dual-") as folder:
            yield RemoteSource(Remote(location), Path(folder), legacy_type_42=legacy_type_42)
        return
    if not out.parent.is_dir():
        raise GgufError(f"{out}: the folder {out.parent} does not exist")
    remote, folder = Remote(location), _folder(out)
    try:
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "wb") as lock:
            require_lock(lock, out)
            try:
                yield RemoteSource(remote, folder, legacy_type_42=legacy_type_42)
            finally:
                if folder.exists() and not (folder / "data").exists():
                    shutil.rmtree(folder)  # nothing in it that is worth keeping
    except OSError as error:
        raise GgufError(f"{folder}: {error.strerror or error}") from error


def _folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.fetch")


class _Head:
    """A file object over the start of the remote file, kept in a local one that grows as it is read."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote, self.path, self.at = remote, path, 0
        self.block = FIRST_BLOCK

    def __enter__(self) -> "_Head":
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


class _Journal:
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

    def write(self, number: int, offset: int, piece: bytes) -> None:
        """Put the next piece of a chunk to byte `offset` of the data."""
        with self.mutex:
            self.out.seek(offset)
            write_all(self.out, piece)
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


class _Fetch:
    """Brings the chunks that the journal lacks, by several threads."""

    def __init__(
        self, remote: Remote, path: Path, chunks: Sequence[Chunk], journal: _Journal, progress: Progress | None
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
        chunk, moved = self.chunks[number], self.chunks[number].target - self.chunks[number].source

        def sink(offset: int, piece: bytes) -> None:
            self.journal.write(number, offset + moved, piece)
            if self.progress:
                self.progress(self.journal.total, self.total)

        self.remote.fetch(chunk.source + self.journal.done[number], chunk.source + chunk.nbytes, sink, self.stop)


def _write_around(path: Path, layout: Layout) -> None:
    """Write all that is not fetched: the head, and zeros between the tensors, whatever the twin has there."""
    with open(path, "r+b", buffering=0) as out:
        at = 0
        for part in layout.head:
            # keys are small beside memory; the reader has bounded the head
            for piece in [part] if isinstance(part, bytes) else _blocks(part):
                write_all(out, piece)
                at += len(piece)
        ends = [*layout.offsets[1:], layout.nbytes]
        gaps = [(at, layout.offsets[0] if layout.offsets else layout.nbytes)]
        gaps += [(offset + t.nbytes, end) for (t, offset), end in zip(layout.placed, ends, strict=True)]
        for start, end in gaps:
            out.seek(start)
            write_all(out, bytes(end - start))


def _blocks(span: Span) -> Iterator[bytes]:
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        for at in range(0, span.nbytes, MIB):
            yield file.read(min(MIB, span.nbytes - at))


def _fingerprint(layout: Layout, chunks: Sequence[Chunk]) -> str:
    """What a journal is of: the same layout from the same ranges."""
    digest = hashlib.sha256(repr((layout.nbytes, layout.offsets, chunks)).encode())
    for part in layout.head:
        digest.update(sha256_span(part).encode())
    return digest.hexdigest()
