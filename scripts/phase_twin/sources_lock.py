"""The lock of `config/sources.yaml`: what the first download found where sources.yaml could not say it.

`sources.lock.yaml` holds the commit of a revision, and the size and SHA-256 of each file. It is meant to be committed.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import Field

from .errors import UserError
from .files import write_text
from .sources import Checkpoint, Commit, Entry, Name, Repo, Sha256, Size, Text, load_yaml

LOCK_HEADER = """\
# Written by the download rules: what was found the first time. Later runs hold to it; commit this file.
# To accept what a source offers now, delete its entry and run again.
"""


class LockedFile(Entry):
    """Size in bytes and SHA-256 of one file."""

    bytes: Size
    sha256: Sha256


class LockedCheckpoint(Entry):
    """What `revision` of `repo` was when first seen; `files` is empty until all of them were fetched and hashed."""

    repo: Repo
    revision: str
    commit: Commit
    files: dict[Name, LockedFile] = Field(default_factory=dict)


class LockedText(Entry):
    """What a text was when first fetched."""

    url: str
    member: str | None = None
    bytes: Size
    sha256: Sha256


class Lock(Entry):
    """The whole of sources.lock.yaml."""

    checkpoints: dict[Name, LockedCheckpoint] = Field(default_factory=dict)
    texts: dict[Name, LockedText] = Field(default_factory=dict)


def load_lock(path: str | os.PathLike[str]) -> Lock:
    """The lock at `path`; empty if there is none yet."""
    return load_yaml(Path(path), Lock) if Path(path).exists() else Lock()


def update_lock(path: str | os.PathLike[str], change: Callable[[Lock], Lock]) -> Lock:
    """Replace the lock by `change(lock)`, atomically and one process at a time; return it."""
    path = Path(path)
    try:
        with _only_one(path):
            lock = change(load_lock(path))
            data = lock.model_dump(exclude_none=True)
            body = yaml.safe_dump(_sorted(data), sort_keys=False, allow_unicode=True, width=120)
            write_text(path, LOCK_HEADER + body)
            return lock
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def lock_checkpoint(path: str | os.PathLike[str], name: str, entry: LockedCheckpoint) -> LockedCheckpoint:
    """Record `entry` unless another process was first; return what now holds."""

    def change(lock: Lock) -> Lock:
        held = lock.checkpoints.get(name)
        if held is not None and (held.files or not entry.files):
            return lock
        return lock.model_copy(update={"checkpoints": {**lock.checkpoints, name: entry}})

    return update_lock(path, change).checkpoints[name]


def lock_text(path: str | os.PathLike[str], name: str, entry: LockedText) -> LockedText:
    """Record `entry` unless another process was first; return what now holds."""

    def change(lock: Lock) -> Lock:
        return lock.model_copy(update={"texts": {name: entry, **lock.texts}})

    return update_lock(path, change).texts[name]


def held_checkpoint(path: str | os.PathLike[str], name: str, wanted: Checkpoint) -> LockedCheckpoint | None:
    """The lock's entry for a checkpoint, if any; it must be of the same repository and revision."""
    held = load_lock(path).checkpoints.get(name)
    if held is not None:
        _same(path, "checkpoints", name, (held.repo, held.revision), (wanted.repo, wanted.revision))
    return held


def held_text(path: str | os.PathLike[str], name: str, wanted: Text) -> LockedText | None:
    """The lock's entry for a text, if any; it must be of the same URL and member."""
    held = load_lock(path).texts.get(name)
    if held is not None:
        _same(path, "texts", name, (held.url, held.member), (wanted.url, wanted.member))
    return held


def remedy(lock: str | os.PathLike[str], section: str, name: str) -> str:
    """What to do when a source no longer is what the lock says."""
    return f"delete the entry {section}.{name} of {lock} to accept the new revision"


def _same(lock: str | os.PathLike[str], section: str, name: str, held: tuple, wanted: tuple) -> None:
    for locked, configured in zip(held, wanted, strict=True):
        if locked != configured:
            raise UserError(
                f"{lock} holds {section}.{name} to {locked}, but sources.yaml asks for {configured}; "
                + remedy(lock, section, name)
            )


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold an advisory lock on the file at `path`, made empty if there is none.

    A writer replaces the file, so whoever waited on the old one must take the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return


def _sorted(data: object) -> object:
    return {key: _sorted(data[key]) for key in _order(data)} if isinstance(data, dict) else data


def _order(data: dict) -> list[str]:
    # an entry's own keys keep the models' order; names and files are sorted
    fixed = {"repo", "url", "bytes", "checkpoints", "texts"}
    return list(data) if fixed & data.keys() else sorted(data)
