"""What the command line says: on streams that may be full, closed, narrow or without a reader."""

import logging
import os
import re
import signal
import sys
from contextlib import suppress

from ..errors import GgufError

READER_GONE = 128 + getattr(signal, "SIGPIPE", 13)  # as a shell tells it of other programs


class OutputError(GgufError):
    """Standard output did not take what there was to say; `code` is the exit code."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


class OneLine(logging.Formatter):
    """Each record as one line, whatever is in the names that it tells."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return one_line(super().format(record))


def one_line(text: object) -> str:
    """`text` with what would break a line or steer a terminal escaped."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: ascii(found[0])[1:-1], str(text))


def widen_streams() -> None:
    """Let names appear escaped where a stream's encoding lacks a character, or where they are no text at all."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print to standard output, now; raises OutputError if it does not take it."""
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        print(text, flush=True)
    except OSError as error:
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise OutputError("the reader of the output has gone", READER_GONE) from None
        raise OutputError(f"standard output: {error.strerror or error}") from None


def complain(text: object) -> None:
    """Print one line to standard error, if there is one that takes it."""
    with suppress(OSError):
        print(f"prune-dual: {one_line(text)}", file=sys.stderr, flush=True)


def _discard_stdout() -> None:
    # what is left in the buffer would be tried again when Python ends
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
