"""Whether a file was touched."""

from pathlib import Path


def unread(path: Path) -> tuple[bytes, list[float]]:
    """Content and state of a file but for when it was last read."""
    stat = path.stat()
    state = [getattr(stat, name) for name in dir(stat) if name.startswith("st_") and not name.startswith("st_atime")]
    return path.read_bytes(), state


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in a folder, but for what Python itself keeps of modules."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
