"""How far the tool is, on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .errors import amount

Progress = Callable[[int, int], None]


def show_progress(done: int, total: int) -> None:
    """Tell bytes done of a total on the terminal, always on the same line."""
    with suppress(OSError):  # the terminal has gone; the work goes on
        print(f"\rprune-dual: {amount(done)} of {amount(total)}  ", end="", file=sys.stderr, flush=True)


@contextmanager
def live_progress() -> Iterator[Progress | None]:
    """Yield what shows progress on a terminal, and end its line; None elsewhere."""
    live = sys.stderr is not None and sys.stderr.isatty()
    yield show_progress if live else None
    if live:
        with suppress(OSError):
            print(file=sys.stderr)
