"""The command line: a prune, or with the word `verify` a check of a release."""

import logging
import signal
import sys
from collections.abc import Sequence

from ..errors import GgufError
from .prune import run_prune
from .verify import run_verify


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(level=logging.INFO, format="prune-dual: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: the partial file goes
    try:
        if words[:1] == ["verify"]:
            run_verify(words[1:])
        else:
            run_prune(words)
    except GgufError as error:
        print(f"prune-dual: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\nprune-dual: interrupted, {str(interrupt) or 'nothing was written'}", file=sys.stderr)
        return 130
    return 0
