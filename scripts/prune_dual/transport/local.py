"""A twin that is a file of this machine."""

from pathlib import Path

from ..container.layout import Layout
from ..files import partial_path, read_small
from ..manifest.tensors import verify_copy
from ..twin.groups import Twin
from ..twin.plain import prune
from ..twin.selection import Selection
from .source import Output


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
        """The file `name` beside the twin, if there is one; folders and pipes of that name are none."""
        path = self.path.with_name(name)
        return read_small(path, limit) if path.is_file() else None

    def fetched_nbytes(self, selection: Selection) -> int:
        """Bytes to fetch: none."""
        return 0

    def begun(self, out: Path) -> Path:
        """Where the bytes of `out` are until it is complete."""
        return partial_path(out)

    def write(self, output: Output) -> int:
        """Write the selected variants; to verify them, read them back before the file gets its name."""

        def check(path: Path, layout: Layout) -> None:
            self.verify(output, layout, path)

        return prune(
            self.twin,
            output.selection,
            output.path,
            force=output.force,
            progress=output.progress,
            check=check if output.verify else None,
        )

    def verify(self, output: Output, layout: Layout, path: Path) -> None:
        """Compare the file written at `path` with the twin, and with the manifest if there is one."""
        entries = output.manifest.expected(self.twin.gguf, layout.tensors) if output.manifest else None
        verify_copy(path, layout, entries, output.progress)
