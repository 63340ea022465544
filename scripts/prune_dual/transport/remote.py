"""A fitted file from a twin that is somewhere else: of the twin's bytes, only the head and the winners' are fetched.

While a file OUT is fetched, the folder .OUT.fetch beside it holds all that a later run needs to go on: `source.json`
(which remote file), `head` (its first bytes), `data` (OUT as far as it is), `journal` (which chunks of it are there).
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..container.entries import Span
from ..container.hashing import sha256_span
from ..container.layout import Layout
from ..container.reader import Gguf
from ..errors import MIB, GgufError, amount
from ..files import check_output, check_space, forget_cached, require_lock, write_all
from ..manifest.content import Manifest, TensorHash
from ..manifest.tensors import verify_copy, wrong_hash
from ..twin.groups import Twin
from ..twin.plain import plain_layout
from ..twin.selection import Selection
from .chunks import Chunk, fingerprint, plan_chunks
from .fetch import Fetch
from .head import FIRST_BLOCK, Head
from .http import Remote
from .journal import Journal
from .source import Output

log = logging.getLogger("prune-dual")


class RemoteSource:
    """A twin at an address, opened by `open_remote`."""

    def __init__(self, remote: Remote, folder: Path, *, legacy_type_42: bool) -> None:
        self.remote, self.folder = remote, folder
        first = remote.first(FIRST_BLOCK)
        self._begin(first)
        with Head(remote, folder / "head") as head:
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

    def write(self, output: Output) -> int:
        """Fetch the selected variants to a plain GGUF; return its size in bytes.

        With a manifest each tensor is compared with its hash there, before the file gets its name; to verify, there
        must be one.

        Raises
        ------
        GgufError
            if the server, the disk or the content is not as it must be; what was fetched is kept where it can serve.
        KeyboardInterrupt
            with a message, once the state for going on is on disk.
        """
        out, manifest = output.path, output.manifest
        if output.verify:
            self._required(manifest)
        check_output(out, [], output.force)
        layout = plain_layout(self.twin, output.selection)
        entries = manifest.expected(self.twin.gguf, layout.tensors) if manifest else None
        chunks = plan_chunks(layout.placed, self.twin.gguf.alignment)
        data = self.folder / "data"
        try:
            plan = fingerprint(layout, chunks)
            resumable = bool(self.remote.validator or manifest)
            with Journal(self.folder / "journal", data, plan, chunks, resumable) as journal:
                os.truncate(data, layout.nbytes)
                check_space(out, layout.nbytes, data)
                fetch = Fetch(self.remote, data, chunks, journal, output.progress)
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

    def verify(self, output: Output, layout: Layout, path: Path) -> None:
        """Compare the file written at `path` with the manifest, which must be there."""
        entries = self._required(output.manifest).expected(self.twin.gguf, layout.tensors)
        verify_copy(path, layout, entries, output.progress, with_source=False)

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
        entries: Sequence[Sequence[TensorHash]],
        chunks: Sequence[Chunk],
        journal: Journal,
        fetch: Fetch,
    ) -> None:
        """Compare every tensor with the manifest, or those that it is woven of; fetch those that differ once more."""
        path = fetch.path
        parts = [
            (written, span, entry)
            for (tensor, offset), known in zip(layout.placed, entries, strict=True)
            for written, span, entry in zip(tensor.within(path, offset), tensor.sources, known, strict=True)
        ]
        suspects = list(range(len(parts)))
        for attempt in (1, 2):
            journal.sync()
            forget_cached(path)
            found = {n: sha256_span(parts[n][0]) for n in suspects}
            suspects = [n for n in suspects if found[n] != parts[n][2].sha256]
            if not suspects:
                return
            ranges = [(span.offset, span.offset + span.nbytes) for span in (parts[n][1] for n in suspects)]
            for number, chunk in enumerate(chunks):
                if any(chunk.source < end and start < chunk.source + chunk.nbytes for start, end in ranges):
                    journal.forget(number)
            if attempt == 1:
                first = parts[suspects[0]][2]
                log.warning(
                    "%s: tensor %r is not what the manifest says (%d such): fetching again",
                    self.where,
                    first.name,
                    len(suspects),
                )
                fetch.run()
                _write_around(path, layout)
        raise wrong_hash(parts[suspects[0]][2], found[suspects[0]], self.where)

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
