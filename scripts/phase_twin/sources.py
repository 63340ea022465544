"""What comes from outside: `config/sources.yaml`, and its lock.

The lock, `sources.lock.yaml`, holds what the first download found where sources.yaml could not say it:
the commit of a revision, the size and SHA-256 of each file. It is meant to be committed.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from .errors import UserError
from .files import write_text

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Size = Annotated[int, Field(ge=0)]
# plain http serves tests and mirrors on the own host only
Url = Annotated[str, StringConstraints(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/])\S+$")]
# a name becomes part of a path
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Repo = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]

HUB = "https://huggingface.co"
LOCK_HEADER = """\
# Written by the download rules: what was found the first time. Later runs hold to it; commit this file.
# To accept what a source offers now, delete its entry and run again.
"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sdist(_Model):
    """A source distribution that carries the engine's tree."""

    package: str
    version: str
    bytes: Size
    sha256: Sha256
    subdir: str
    license: str
    comment: str = ""


class Engine(_Model):
    """The base that the patch series applies to."""

    git: Url
    commit: Commit
    tag: str
    license: str
    sdist: Sdist
    blobs: dict[str, Commit] = {}
    comment: str = ""


class Checkpoint(_Model):
    """A model repository on the hub."""

    repo: Repo
    revision: str = "main"
    license: str
    comment: str = ""


class Text(_Model):
    """A text file behind a URL, or one member of a zip archive there.

    `bytes` and `sha256` are those of the text itself, not of the archive.
    """

    url: Url
    member: str | None = None
    bytes: Size | None = None
    sha256: Sha256 | None = None
    license: str
    comment: str = ""


class Sources(_Model):
    """The whole of sources.yaml."""

    engine: Engine
    checkpoints: dict[Name, Checkpoint] = {}
    texts: dict[Name, Text] = {}


class LockedFile(_Model):
    """Size in bytes and SHA-256 of one file."""

    bytes: Size
    sha256: Sha256


class LockedCheckpoint(_Model):
    """What `revision` of `repo` was when first seen; `files` is empty until all of them were fetched and hashed."""

    repo: Repo
    revision: str
    commit: Commit
    files: dict[Name, LockedFile] = {}


class LockedText(_Model):
    """What a text was when first fetched."""

    url: str
    member: str | None = None
    bytes: Size
    sha256: Sha256


class Lock(_Model):
    """The whole of sources.lock.yaml."""

    checkpoints: dict[Name, LockedCheckpoint] = {}
    texts: dict[Name, LockedText] = {}


_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T", Checkpoint, Text)


def load_sources(path: str | os.PathLike[str]) -> Sources:
    """Read and validate sources.yaml."""
    return _load(Path(path), Sources)


def find_source(entries: dict[str, _T], name: str, where: str) -> _T:
    """Return the entry `name` of one section of sources.yaml.

    Raises
    ------
    UserError
        naming the section `where` and what it has.
    """
    try:
        return entries[name]
    except KeyError:
        raise UserError(f"{where} has no entry {name!r}; it has: {', '.join(entries) or 'none'}") from None


def hub_endpoint() -> str:
    """Base URL of the hub: HF_ENDPOINT where set."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def at_endpoint(url: str) -> str:
    """`url`, on the configured endpoint if it is one of the hub's."""
    return hub_endpoint() + url[len(HUB) :] if url.startswith(HUB + "/") else url


def load_lock(path: str | os.PathLike[str]) -> Lock:
    """The lock at `path`; empty if there is none yet."""
    return _load(Path(path), Lock) if Path(path).exists() else Lock()


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


def _load(path: Path, model: type[_M]) -> _M:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {key}: {_reason(first)}") from error


def _reason(error: dict) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "is missing"
    shown = repr(error["input"])
    return f"{shown if len(shown) <= 80 else shown[:77] + '...'}: {error['msg'].lower()}"
