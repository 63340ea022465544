"""What the programs of this folder report in one line."""

import sys
from collections.abc import Callable, Sequence


class ToolchainError(Exception):
    """Something the user can mend: a missing part, an option that is not supported."""


def run_main(name: str, main: Callable[[Sequence[str]], int]) -> int:
    """Return `main`'s exit status for the command line; a ToolchainError is one line on stderr and status 2."""
    try:
        return main(sys.argv[1:])
    except ToolchainError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
