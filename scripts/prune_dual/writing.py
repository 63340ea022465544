"""Write GGUF files by copying ranges of others."""

import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .container import CHUNK, DEFAULT_ALIGNMENT, Kv, Span, Tensor, encode_str, padded
from .errors import MIB, GgufError, amount
from .hashing import sha256_span

READ = MIB  # what passes through our memory: more is slower, as it leaves the processor's cache

Progress = Callable[[int, int], None]


def show_progress(done: int, total: int) -> None:
    """Tell bytes done of a total on the terminal, always on the same line."""
    print(f"\rprune-dual: {amount(done)} of {amount(total)}  ", end="", file=sys.stderr, flush=True)


@contextmanager
def live_progress() -> Iterator[Progress | None]:
    """Yield what shows progress on a terminal, and end its line; None elsewhere."""
    live = sys.stderr.isatty()
    yield show_progress if live else None
    if live:
        print(file=sys.stderr)


@dataclass(frozen=True)
class Layout:
    """Where each part of a GGUF file stands; offsets are bytes from the file's start."""

    head: list[bytes | Span]  # all before the tensors' data, without gaps
    tensors: list[Tensor]
    offsets: list[int]  # one per tensor
    nbytes: int  # of the whole file

    @property
    def placed(self) -> list[tuple[Tensor, int]]:
        """Each tensor with its offset."""
        return list(zip(self.tensors, self.offsets, strict=True))


def lay_out(kv: Iterable[Kv], tensors: Iterable[Tensor], alignment: int = DEFAULT_ALIGNMENT) -> Layout:
    """Place keys and tensors, in the order given."""
    kv, tensors = list(kv), list(tensors)
    infos, places, at = bytearray(), [], 0
    for tensor in tensors:
        infos += encode_str(tensor.name)
        infos += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, at)
        places.append(at)
        at += padded(tensor.nbytes, alignment)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kv))
    data_start = padded(len(start) + sum(entry.nbytes for entry in kv) + len(infos), alignment)
    head = [start, *(entry.raw for entry in kv), bytes(infos)]
    return Layout(head, tensors, [data_start + place for place in places], data_start + at)


def write_gguf(
    path: str | os.PathLike[str],
    kv: Iterable[Kv],
    tensors: Iterable[Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    force: bool = False,
    progress: Progress | None = None,
    check: Callable[[Path, Layout], None] | None = None,
) -> int:
    """Write a GGUF file, streaming keys and tensors from where they are, and return its size in bytes.

    The file appears under its name only when complete. Memory use does not depend on its size: ranges go from file to
    file within the kernel, or by chunks; mapped memory would count as ours.

    Parameters
    ----------
    tensors
        in the order in which their data is to stand.
    force
        replace an existing file; never one that is read here.
    progress
        called with (bytes done, bytes in all).
    check
        called with the complete file, before it gets its name, and its layout; what it raises prevents that.

    Raises
    ------
    GgufError
        if the output exists or is an input, the disk is too full, or reading or writing fails.
    """
    path, layout = Path(path), lay_out(kv, tensors, alignment)
    spans = [part for part in layout.head if isinstance(part, Span)] + [tensor.data for tensor in layout.tensors]
    check_output(path, {span.path for span in spans}, force)
    try:
        with _partial(path) as out, ExitStack() as stack:
            check_space(path, layout.nbytes, partial_path(path))
            sources: dict[Path, BinaryIO] = {}
            states: dict[Path, tuple[int, int]] = {}

            def copy(span: Span) -> None:
                if span.path not in sources:
                    sources[span.path] = stack.enter_context(open(span.path, "rb", buffering=0))
                    states[span.path] = _state(sources[span.path])
                _copy(sources[span.path], span, out, progress, layout.nbytes)

            for part in layout.head:
                if isinstance(part, Span):
                    copy(part)
                else:
                    write_all(out, part)
            for tensor, offset in layout.placed:
                out.seek(offset)
                copy(tensor.data)
            out.truncate(layout.nbytes)
            for source, file in sources.items():
                if _state(file) != states[source]:
                    raise GgufError(f"{source}: changed while it was copied; run again when nothing writes to it")
            if check:
                os.fsync(out.fileno())
                check(Path(out.name), layout)
    except OSError as error:
        raise GgufError(f"{path}: cannot be written: {error.strerror or error}") from error
    return layout.nbytes


def _state(file: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_size, stat.st_mtime_ns


def check_output(path: Path, sources: Iterable[Path], force: bool) -> None:
    """Raise a GgufError unless `path` may be written."""
    if not path.parent.is_dir():
        raise GgufError(f"{path}: the folder {path.parent} does not exist")
    if path.exists():
        for source in sources:
            if path.samefile(source):
                raise GgufError(f"{path}: is the input {source}; choose another name for the output")
        if path.is_dir():
            raise GgufError(f"{path}: is a folder; name a file")
        if not force:
            raise GgufError(f"{path}: exists already; --force replaces it")


def check_space(path: Path, nbytes: int, begun: Path) -> str:
    """Say in one line what `path` needs and its disk has, beside what of its `nbytes` bytes the file `begun` holds.

    Raises
    ------
    GgufError
        with that line, if it is too little.
    """
    have = getattr(begun.stat(), "st_blocks", 0) * 512 if begun.exists() else 0
    need, free = max(0, nbytes - have), shutil.disk_usage(path.parent).free
    line = f"{path}: needs {amount(need)}, {path.parent} has {amount(free)} free"
    if need > free:
        raise GgufError(f"{line}: make room and run again")
    return line


def same_head(path: Path, layout: Layout) -> bool:
    """Whether the file at `path` has the size of `layout`, and its bytes before the tensors' data."""
    if path.stat().st_size != layout.nbytes:
        return False
    at = 0
    for part in layout.head:
        nbytes = part.nbytes if isinstance(part, Span) else len(part)
        if sha256_span(Span(path, at, nbytes)) != sha256_span(part):
            return False
        at += nbytes
    return True


def partial_path(path: Path) -> Path:
    """Where the file `path` is until it is complete; always the same, so that nothing piles up after a kill."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """Yield an empty unbuffered file beside `path` that is renamed to it at the end, or removed on any failure."""
    partial = partial_path(path)
    with open(partial, "r+b", buffering=0, opener=_create) as out:
        require_lock(out, path)
        # between open and lock the run that had it may have given it its name
        if not (partial.exists() and os.path.samestat(os.fstat(out.fileno()), partial.stat())):
            raise GgufError(f"{path}: another run has just written it")
        try:
            out.truncate(0)
            yield out
            os.fsync(out.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _create(path: str, flags: int) -> int:
    # neither cut, which is for the holder of the lock alone, nor appended to, which copies within the kernel refuse
    return os.open(path, flags | os.O_CREAT, 0o666)


def require_lock(file: BinaryIO, out: Path) -> None:
    """Lock `file`, which stands for writing `out`, until it is closed; where the system has no such locks, do nothing.

    Raises
    ------
    GgufError
        if another run holds it.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise GgufError(f"{out}: another run is writing it") from None
    except OSError:
        pass  # a file system without locks


def _copy(source: BinaryIO, span: Span, out: BinaryIO, progress: Progress | None, total: int) -> None:
    """Append `span` of `source` to `out`."""
    within_kernel = list(KERNEL_COPIES)
    done = 0
    while done < span.nbytes:
        want = min(CHUNK, span.nbytes - done)
        copied = 0
        if within_kernel:
            try:
                copied = within_kernel[0](source.fileno(), out.fileno(), span.offset + done, want)
            except OSError:
                within_kernel.pop(0)  # another file system or an old kernel; anything worse shows below
                continue
        if not copied:
            source.seek(span.offset + done)
            data = source.read(min(READ, want))
            if not data:
                raise GgufError(f"{span.path}: became shorter while it was copied")
            write_all(out, data)
            copied = len(data)
        done += copied
        if progress:
            progress(out.tell(), total)


def _copy_file_range(source: int, out: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(source, out, nbytes, offset_src=offset)


def _sendfile(source: int, out: int, offset: int, nbytes: int) -> int:
    return os.sendfile(out, source, offset, nbytes)


# best first; each appends to `out` and returns how much
KERNEL_COPIES = [
    copy for name, copy in (("copy_file_range", _copy_file_range), ("sendfile", _sendfile)) if hasattr(os, name)
]


def write_all(out: BinaryIO, data: bytes) -> None:
    """Write `data` to an unbuffered file, which may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
