"""Dependency files in make's syntax, as compilers write them for -MD."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def parse_dependencies(text: str) -> list[str]:
    """Return the files that the one target of a dependency file depends on."""
    _, _, prerequisites = text.replace("\\\n", " ").partition(": ")
    words = re.findall(r"(?:\\.|[^\s\\])+", prerequisites)
    return [re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in words]


def format_dependencies(target: str, files: Iterable[str]) -> str:
    """Return a dependency file."""
    escaped = [re.sub(r"([ #\\])", r"\\\1", name).replace("$", "$$") for name in files]
    return " \\\n  ".join([f"{target}:", *escaped]) + "\n"


def merge_dependencies(lists: Iterable[Sequence[str]], ignored: Sequence[Path]) -> list[str]:
    """Return every existing file of the lists once, in their order, without those in the folders `ignored`.

    The device half's front end also names files that exist in its memory only.
    """
    names = dict.fromkeys(name for names in lists for name in names)
    folders = tuple(f"{folder}/" for folder in ignored)
    return [name for name in names if not name.startswith(folders) and Path(name).is_file()]
