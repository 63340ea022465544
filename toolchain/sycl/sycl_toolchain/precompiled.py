"""Precompiled headers: what most source files include is read once for all of them."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import parts
from .dependencies import parse_dependencies

# the device half's front end keeps its own here
FOLDER = parts.VENV / "precompiled"


@dataclass(frozen=True)
class Header:
    """A precompiled header of the host half and the list of files it was made of."""

    file: Path

    @property
    def dependencies(self) -> Path:
        """The list, in make's syntax."""
        return self.file.with_suffix(".d")

    def is_current(self) -> bool:
        """Whether it is there and none of its files is gone or newer: clang would refuse it then."""
        try:
            made = self.file.stat().st_mtime_ns
            files = parse_dependencies(self.dependencies.read_text())
            return all(os.stat(name).st_mtime_ns <= made for name in files)
        except FileNotFoundError:
            return False


def precompiled_header(clang: str, options: Sequence[str]) -> Header | None:
    """Return the header for a compilation of the host half with these options, made where it is missing.

    None if it does not compile with them: then the source file's own messages say why.
    """
    digest = hashlib.sha256("\0".join([parts.fingerprint(clang), *options]).encode())
    header = Header(FOLDER / f"{digest.hexdigest()[:16]}.pch")
    if header.is_current():
        return header
    if header.file.exists():  # the machine's headers have changed: so have those of the device half
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    # several compilations may make it at once
    partial = Header(header.file.with_suffix(f".{os.getpid()}.pch"))
    command = [clang, *options, "-x", "c++-header", str(parts.PRECOMPILED), "-o", str(partial.file)]
    command += ["-MD", "-MT", "header", "-MF", str(partial.dependencies)]
    try:
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            return None
        partial.dependencies.replace(header.dependencies)
        partial.file.replace(header.file)
        return header
    finally:
        partial.dependencies.unlink(missing_ok=True)
        partial.file.unlink(missing_ok=True)
