"""Whether a file was touched."""

from pathlib import Path


def unread(path: Path) -> tuple[bytes, list[float]]:
    """Content and state of a file but for when it was last read."""
    stat = path.stat()
    state = [getattr(stat, name) for name in dir(stat) if name.startswith("st_") and not name.startswith("st_atime")]
    return path.read_bytes(), state
