"""The command line: a prune, or with the word `verify` a check of a release."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from ..errors import GgufError
from .output import OneLine, OutputError, complain, widen_streams
from .prune import run_prune
from .verify import run_verify


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    widen_streams()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("prune-dual: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: the partial file goes
    try:
        if words[:1] == ["verify"]:
            run_verify(words[1:])
        else:
            run_prune(words)
    except OutputError as error:
        complain(error)
        return error.code
    except GgufError as error:
        complain(error)
        return 1
    except OSError as error:  # of the surroundings, at a place that cannot say more of it
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        complain(f"{where}{error.strerror or error}")
        return 1
    except MemoryError:
        complain("out of memory")
        return 1
    except KeyboardInterrupt as interrupt:
        if sys.stderr is not None and sys.stderr.isatty():
            print(file=sys.stderr)  # behind the ^C
        complain(f"interrupted, {str(interrupt) or 'nothing was written'}")
        return 130
    return 0
