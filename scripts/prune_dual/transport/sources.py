"""A twin at a path or an address, and the manifest that goes with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import read_small
from ..manifest.content import MANIFEST_NAME, MAX_NBYTES, Manifest
from .http import Remote, is_remote
from .local import LocalSource
from .remote import open_remote
from .source import Source


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
