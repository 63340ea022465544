"""What is left to do when the wheels are installed: `python -m sycl_toolchain.install`."""

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from . import parts, precompiled
from .errors import run_main

# smaller ones are not worth a look
MIN_BYTES = 1 << 20


def link_duplicates(folder: Path, min_bytes: int = MIN_BYTES) -> int:
    """Make hard links of files with the same content; return the bytes that saved.

    A wheel cannot hold symbolic links: libx.so, libx.so.1 and libx.so.1.2 are three copies.
    """
    saved = 0
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    large = sorted((path.stat().st_size, path) for path in files if path.stat().st_size >= min_bytes)
    for size, group in groupby(large, key=lambda item: item[0]):
        kept: list[Path] = []
        for _, path in group:
            same = next((other for other in kept if filecmp.cmp(other, path, shallow=False)), None)
            if same is None:
                kept.append(path)
            elif not path.samefile(same):
                partial = path.with_name(path.name + ".partial")
                partial.unlink(missing_ok=True)
                os.link(same, partial)
                partial.replace(path)
                saved += size
    return saved


def build_device_pass() -> None:
    """Compile the program of the device half."""
    command = [parts.require(parts.HOST_COMPILER, "g++"), "-std=c++17", "-O1", "-w"]
    command += ["-DSYCL_DISABLE_FSYCL_SYCLHPP_WARNING", "-isystem", str(parts.INCLUDE)]
    partial = parts.DEVICE_PASS.with_suffix(".partial")
    subprocess.run([*command, str(parts.DEVICE_PASS_SOURCE), "-o", str(partial), *parts.LINK], check=True)
    partial.replace(parts.DEVICE_PASS)


def main(arguments: Sequence[str]) -> int:
    """Finish the environment."""
    saved = link_duplicates(parts.LIBRARIES)
    print(f"duplicate libraries made hard links: {saved / 1e6:.0f} MB saved")
    build_device_pass()
    shutil.rmtree(precompiled.FOLDER, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main("install", main))
