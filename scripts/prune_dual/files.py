"""Files of this machine: outputs that get their name when they are complete, one writer at a time, small reads."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import MIB, GgufError, amount

CHUNK = 8 * MIB  # of a large file at a time


def check_output(path: Path, sources: Iterable[Path], force: bool) -> None:
    """Raise a GgufError unless `path` may be written."""
    if not path.parent.is_dir():
        raise GgufError(f"{path}: the folder {path.parent} does not exist")
    if path.is_symlink() and not path.is_file():
        raise GgufError(f"{path}: is a link to {os.readlink(path)}, which is no file; name a file")
    if path.exists():
        for source in sources:
            if path.samefile(source):
                raise GgufError(f"{path}: is the input {source}; choose another name for the output")
        if path.is_dir():
            raise GgufError(f"{path}: is a folder; name a file")
        if not path.is_file():
            raise GgufError(f"{path}: is a device or a pipe; name a file")
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


def partial_path(path: Path) -> Path:
    """Where the file `path` is until it is complete; always the same, so that nothing piles up after a kill."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def partial_output(path: Path) -> Iterator[BinaryIO]:
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
    """Lock `file`, which stands for writing `out`, until it is closed; raises GgufError if another run holds it."""
    if not lock_output(file):
        raise GgufError(f"{out}: another run is writing it")


def lock_output(file: BinaryIO) -> bool:
    """Lock `file`, which stands for an output, until it is closed; False if another process holds it.

    Where the system or the file system has no such locks, all hold it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def write_all(out: BinaryIO, data: bytes | memoryview) -> None:
    """Write `data` to an unbuffered file, which may take less at a time."""
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def read_small(path: Path, limit: int) -> bytes:
    """All of a local file that has at most `limit` bytes; raises GgufError."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise GgufError(f"{path}: has more than {amount(limit)}, which is too much for what it is")
    return data


def forget_cached(path: Path) -> None:
    """Let the next reads come from the disk, where the system can: what is compared is then what was stored."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
