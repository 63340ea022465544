"""What every origin of a twin can do, and what is asked of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..container.layout import Layout
from ..manifest.content import Manifest
from ..progress import Progress
from ..twin.groups import Twin
from ..twin.selection import Selection


@dataclass(frozen=True)
class Output:
    """The plain file to be written, and how it is checked."""

    selection: Selection
    path: Path
    force: bool = False  # replace what is there
    manifest: Manifest | None = None  # that each tensor is compared with
    verify: bool = False  # insist on a comparison, before the file gets its name
    progress: Progress | None = None


class Source(Protocol):
    """A twin, and how to write a selection of it; the methods raise GgufError where something is not as it must be."""

    twin: Twin

    @property
    def where(self) -> str:
        """What messages call the twin."""

    def neighbour(self, name: str, limit: int) -> bytes | None:
        """The file `name` of at most `limit` bytes beside the twin, if there is one."""

    def fetched_nbytes(self, selection: Selection) -> int:
        """Bytes that `write` has to fetch in all, the head included."""

    def begun(self, out: Path) -> Path:
        """Where the bytes of `out` are until it is complete."""

    def write(self, output: Output) -> int:
        """Write the selected variants as a plain GGUF; return its size in bytes."""

    def verify(self, output: Output, layout: Layout, path: Path) -> None:
        """Compare the file written at `path` with the manifest, and with the twin where it is here."""
