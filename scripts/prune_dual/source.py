"""Where a twin comes from: a local file, or an address."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from .errors import GgufError, amount
from .manifest import MANIFEST_NAME, MAX_NBYTES, Manifest, verify_copy
from .plain import prune
from .remote import open_remote
from .selection import Selection
from .transport import Remote, is_remote
from .twin import Twin
from .writing import Layout, Progress, partial_path

log = logging.getLogger("prune-dual")


class Source(Protocol):
    """A twin, and how to write a selection of it; see `RemoteSource` for what the methods do."""

    twin: Twin

    @property
    def where(self) -> str: ...  # noqa: D102

    def neighbour(self, name: str, limit: int) -> bytes | None: ...  # noqa: D102

    def fetched_nbytes(self, selection: Selection) -> int: ...  # noqa: D102

    def begun(self, out: Path) -> Path: ...  # noqa: D102

    def write(  # noqa: D102
        self,
        selection: Selection,
        out: Path,
        *,
        force: bool = False,
        manifest: Manifest | None = None,
        verify: bool = False,
        progress: Progress | None = None,
    ) -> int: ...

    def verify(  # noqa: D102
        self, path: Path, layout: Layout, manifest: Manifest | None, progress: Progress | None = None
    ) -> None: ...


class LocalSource:
    """A twin that is a file here."""

    def __init__(self, path: Path, *, legacy_type_42: bool = False) -> None:
        self.path = path
        self.twin = Twin.read(path, legacy_type_42=legacy_type_42)

    @property
    def where(self) -> str:
        """What messages call the twin."""
        return str(self.path)

    def neighbour(self, name: str, limit: int) -> bytes | None:
        """The file `name` beside the twin, if there is one."""
        path = self.path.with_name(name)
        return read_small(path, limit) if path.exists() else None

    def fetched_nbytes(self, selection: Selection) -> int:
        """Bytes to fetch: none."""
        return 0

    def begun(self, out: Path) -> Path:
        """Where the bytes of `out` are until it is complete."""
        return partial_path(out)

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
        """Write the selected variants to `out`; with `verify`, read them back and compare before it gets its name."""

        def check(path: Path, layout: Layout) -> None:
            self.verify(path, layout, manifest, progress)

        return prune(self.twin, selection, out, force=force, progress=progress, check=check if verify else None)

    def verify(self, path: Path, layout: Layout, manifest: Manifest | None, progress: Progress | None = None) -> None:
        """Compare the written file at `path` with the twin, and with the manifest if there is one."""
        entries = manifest.expected(self.twin.gguf, layout.tensors) if manifest else None
        verify_copy(path, layout, entries, progress)


@contextmanager
def open_source(location: str, out: Path | None, *, legacy_type_42: bool = False) -> Iterator[Source]:
    """Yield the twin at a path or an address; `out` is what will be written, None for a look only."""
    if is_remote(location):
        with open_remote(location, out, legacy_type_42=legacy_type_42) as source:
            yield source
    else:
        yield LocalSource(Path(location), legacy_type_42=legacy_type_42)


def find_manifest(source: Source, given: str | None) -> Manifest | None:
    """The manifest at the path or address `given`, or else the one beside the twin; "none" for none at all.

    Raises
    ------
    GgufError
        if the one given is not there, or one is there and is not readable.
    """
    if given == "none":
        return None
    if given is None:
        text, where = source.neighbour(MANIFEST_NAME, MAX_NBYTES), f"{MANIFEST_NAME} beside {source.where}"
    elif is_remote(given):
        remote = Remote(given)
        text, where = remote.small(MAX_NBYTES), str(remote.address)
    else:
        text, where = read_small(Path(given), MAX_NBYTES), given
    return None if text is None else Manifest.parse(text, where)


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
