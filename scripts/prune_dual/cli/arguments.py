"""What arguments of both commands have in common."""

import argparse
from pathlib import Path
from typing import Any

from .output import say


class Parser(argparse.ArgumentParser):
    """A parser whose help is missed where it cannot be printed."""

    def print_help(self, file: Any = None) -> None:
        """Print the help."""
        if file is None:
            say(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)


def location(text: str) -> str:
    """Check a path or address: empty is what a shell makes of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a file or an address")
    return text


def folder_path(text: str) -> Path:
    """Check the path of a folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a folder")
    return Path(text)


def output_path(text: str) -> Path:
    """Check the path of a file to be written."""
    if not text or text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return Path(text)
