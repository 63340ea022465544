"""Any mix of variants from one twin: which groups are promoted, as the engine is told it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from prune_dual import Twin, prune, select

from .engine import override

# bytes of a text that the engine takes as an override, less the closing zero
MAX_OVERRIDE = 127


def format_ranks(ranks: Collection[int]) -> str:
    """Write ranks as `promote` takes them: "0-11,14"."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


@contextmanager
def mix(twin: Twin, promoted: Collection[str], plain: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a file and the engine's flags that make the model with these groups promoted.

    The file is the twin where the engine can be told, else a `plain` one that is removed afterwards: an override holds
    127 bytes, which scattered ranks of a large model exceed.
    """
    if not promoted:
        yield twin.gguf.path, override("default", 0)
        return
    ranks = format_ranks([rank for rank, name in enumerate(twin.promote_order) if name in promoted])
    if len(ranks) <= MAX_OVERRIDE:
        yield twin.gguf.path, override("promote", ranks)
        return
    try:
        prune(twin, select(twin, promote=ranks), plain, force=True)
        yield plain, []
    finally:
        plain.unlink(missing_ok=True)
