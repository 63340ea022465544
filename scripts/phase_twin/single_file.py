"""A Python package as one file that `python FILE` runs."""

import io
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/env python3\n"


def single_file(program: Path, package: Path) -> bytes:
    """Return a zip archive with a first line for the shell: Python runs such a file whatever its name is.

    The same sources give the same bytes.

    Parameters
    ----------
    program
        what is run; imports the package.
    package
        a folder of modules.
    """
    members = {"__main__.py": program}
    members |= {path.relative_to(package.parent).as_posix(): path for path in sorted(package.rglob("*.py"))}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, path in members.items():
            # the epoch of zip: times of files are not theirs
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return SHEBANG + archive.getvalue()
