"""The files of a release folder, compared with its manifest."""

from pathlib import Path, PurePosixPath

from ..container.entries import Span
from ..container.hashing import sha256_span
from ..errors import GgufError
from ..files import read_small
from ..progress import Progress
from .content import MANIFEST_NAME, MAX_NBYTES, FileHash, Manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a release folder.

    Raises
    ------
    GgufError
        if it is missing, unreadable, or lists a file outside of the folder.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise GgufError(f"{path}: no such file; name the folder of a release")
    manifest = Manifest.parse(read_small(path, MAX_NBYTES), str(path))
    for entry in manifest.files:
        name = PurePosixPath(entry.name)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.name or not name.parts:
            raise GgufError(f"{path}: {entry.name!r} is not a name within the release")
    return manifest


def find_faults(folder: Path, manifest: Manifest, *, present: bool, progress: Progress | None = None) -> list[str]:
    """Compare the files with the manifest; return one line for each that is missing or differs.

    Parameters
    ----------
    present
        look only at the files that are there.
    """
    found = [(entry, folder / entry.name) for entry in manifest.files]
    faults = [f"{entry.name}: missing" for entry, path in found if not path.is_file() and not present]
    found = [(entry, path) for entry, path in found if path.is_file()]
    total, done = sum(entry.bytes for entry, _ in found), 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    for entry, path in found:
        size = path.stat().st_size
        if size != entry.bytes:
            faults.append(f"{entry.name}: has {size} bytes, the manifest says {entry.bytes}; fetch it again")
        elif sha256_span(Span(path, 0, size), count) != entry.sha256:
            faults.append(f"{entry.name}: {_what_differs(path, entry, manifest)}; fetch it again")
    return faults


def _what_differs(path: Path, entry: FileHash, manifest: Manifest) -> str:
    if entry.name == manifest.twin:
        wrong = [t.name for t in manifest.tensors if sha256_span(Span(path, t.offset, t.nbytes)) != t.sha256]
        if wrong:
            return f"{len(wrong)} of {len(manifest.tensors)} tensors are damaged, the first is {wrong[0]!r}"
    return "its SHA-256 is not that of the manifest"
