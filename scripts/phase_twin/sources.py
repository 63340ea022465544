"""What comes from outside: `config/sources.yaml`."""

import os
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prune_dual.transport import hub

from .errors import UserError

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Size = Annotated[int, Field(ge=0)]
# plain http serves tests and mirrors on the own host only
Url = Annotated[str, StringConstraints(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/])\S+$")]
# a name becomes part of a path
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Repo = Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]


class Entry(BaseModel):
    """A part of a file of sources; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sdist(Entry):
    """A source distribution that carries the engine's tree."""

    package: str
    version: str
    bytes: Size
    sha256: Sha256
    subdir: str
    license: str
    comment: str = ""


class Engine(Entry):
    """The base that the patch series applies to."""

    git: Url
    commit: Commit
    tag: str
    license: str
    sdist: Sdist
    blobs: dict[str, Commit] = {}
    comment: str = ""


class Checkpoint(Entry):
    """A model repository on the hub."""

    repo: Repo
    revision: str = "main"
    license: str
    comment: str = ""


class Text(Entry):
    """A text file behind a URL, or one member of a zip archive there.

    `bytes` and `sha256` are those of the text itself, not of the archive.
    """

    url: Url
    member: str | None = None
    bytes: Size | None = None
    sha256: Sha256 | None = None
    license: str
    comment: str = ""


class Sources(Entry):
    """The whole of sources.yaml."""

    engine: Engine
    checkpoints: dict[Name, Checkpoint] = {}
    texts: dict[Name, Text] = {}


_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T", Checkpoint, Text)


def load_sources(path: str | os.PathLike[str]) -> Sources:
    """Read and validate sources.yaml."""
    return load_yaml(Path(path), Sources)


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


def at_endpoint(url: str) -> str:
    """`url`, on the configured endpoint if it is one of the hub's."""
    return hub.endpoint() + url[len(hub.HUB) :] if url.startswith(hub.HUB + "/") else url


def load_yaml(path: Path, model: type[_M]) -> _M:
    """Read and validate a YAML file; raises UserError naming the first key that is wrong."""
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
