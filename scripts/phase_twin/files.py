"""Files that appear under their final name only when complete."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune_dual.files import lock_output

from .errors import UserError

# below this a disk is full: what a tool could not write may have been smaller than what is free
FULL_BYTES = 1 << 20
# beside an unfinished file: what of it is good; llama-quantize --resume names it so
JOURNAL = ".journal"
KEPT = "run again, what is finished is kept"
# faults of the machine, which a user can mend
REMEDIES = {
    errno.ENOSPC: f"make room and {KEPT}",
    errno.EDQUOT: f"make room within the quota and {KEPT}",
    errno.EFBIG: f"raise the limit of file sizes (ulimit -f) and {KEPT}",
    errno.EROFS: f"make it writable and {KEPT}",
    errno.EACCES: f"allow it and {KEPT}",
    errno.EPERM: f"allow it and {KEPT}",
    errno.EIO: "the disk fails: check it",
}


def as_user_error(error: OSError, path: str | os.PathLike[str]) -> UserError | None:
    """The fault of the machine that `error`, met while writing `path`, is; None if it is none."""
    if error.errno not in REMEDIES:
        return None
    return UserError(f"{error.filename or path}: {error.strerror}; {REMEDIES[error.errno]}")


@contextmanager
def atomic_output(path: str | os.PathLike[str], *, resumes: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success sync it and rename it to `path`.

    On an exception the temporary file is removed and whatever stood at `path` before is left as it was. The name is
    always the same, so that nothing piles up after a kill.

    Parameters
    ----------
    resumes
        hand over what an interrupted run left, with its journal (JOURNAL), to a writer that goes on from it if it is
        its own; both are removed only where the disk is full.

    Raises
    ------
    UserError
        if another process is writing it, or the machine does not let it be written; what a tool said gets a line if
        the disk is full.
    """
    final = Path(path)
    partial = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "ab") as held:
            if not lock_output(held):
                raise UserError(f"{final}: another process is writing it; wait for it, or end it")
            if not resumes:
                held.truncate(0)
            try:
                yield partial
                if not partial.stat().st_size:
                    raise UserError(f"{final}: nothing was written to it")
                with open(partial, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(partial, final)
            except BaseException as error:
                full = shutil.disk_usage(final.parent).free < FULL_BYTES
                if full or not resumes:
                    partial.unlink(missing_ok=True)
                    partial.with_name(partial.name + JOURNAL).unlink(missing_ok=True)
                if full and isinstance(error, UserError):
                    raise UserError(f"{error}\n  {final}: the disk is full; {REMEDIES[errno.ENOSPC]}") from error
                raise
    except OSError as error:
        raise as_user_error(error, final) or error from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 `text` to `path`, atomically."""
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of the file at `path`, read in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# beside a large file: what it is, from the job that made it
DIGEST = ".sha256"


def recorded_digest(path: str | os.PathLike[str]) -> str | None:
    """SHA-256 that was recorded when `path` was made; None where none was."""
    digest = Path(f"{path}{DIGEST}")
    return digest.read_text(encoding="utf-8").split()[0] if digest.exists() else None


def write_digest(path: str | os.PathLike[str], digest: str | os.PathLike[str]) -> None:
    """Record what the finished file at `path` is, as sha256sum writes it, for `check_digest`."""
    write_text(digest, f"{sha256_file(path)}  {Path(path).name}\n")


def check_digest(path: str | os.PathLike[str], digest: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of `path`, which must be what `write_digest` recorded.

    Raises
    ------
    UserError
        if the file was damaged or changed since.
    """
    found, expected = sha256_file(path), Path(digest).read_text(encoding="utf-8").split()[0]
    if found != expected:
        raise UserError(
            f"{path}: SHA-256 is {found}, but was {expected} when it was made: the file is damaged; "
            "remove it and run again, it is made anew"
        )
    return found


def git_blob_id(path: str | os.PathLike[str]) -> str:
    """The id git gives the file's content, so that a tree can be checked without git."""
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
