"""One pipeline at a time in a folder, and no lock that outlives it.

Snakemake's own lock is files, which stay behind when it is killed. Beside it a run holds an advisory lock, which the
kernel ends with the process: where that one is free, Snakemake's is stale.
"""

import fcntl
import time
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

NAME = "run.lock"
PATIENCE_S = 2.0  # a start-up elsewhere may be looking at the lock
_held: list[BinaryIO] = []


def clear_stale_locks(folder: Path) -> None:
    """Remove the locks that a killed run left in Snakemake's `folder`; where a run is at work, do nothing."""
    try:
        file = _try_lock(folder / NAME)
    except OSError:
        return  # no such locks here, or a folder that cannot be written: Snakemake's are all there is
    if file is not None:
        with file:
            for path in (folder / "locks").glob("*.lock"):
                path.unlink(missing_ok=True)


def hold_run_lock(folder: Path) -> None:
    """Hold the lock until this process ends; where the file system has none, do nothing.

    Raises
    ------
    UserError
        if another run holds it.
    """
    end = time.monotonic() + PATIENCE_S
    try:
        while (file := _try_lock(folder / NAME)) is None:
            if time.monotonic() > end:
                raise UserError(f"another run is at work in {folder.resolve().parent}: wait for it, or end it")
            time.sleep(0.05)
    except OSError:
        return
    _held.append(file)


def _try_lock(path: Path) -> BinaryIO | None:
    # unlike the lock of an output, a file system without locks is no success: nothing would tell a stale lock
    path.parent.mkdir(exist_ok=True)
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file
