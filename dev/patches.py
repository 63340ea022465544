#!/usr/bin/env python3
"""Edit the patch series as git commits.

usage: patches.py unpack    put the pristine base and one commit per patch into resources/engine/work
       patches.py refresh   write the commits there back to patches/, and pin the blob ids of the files they change

Needs resources/engine/base, which the rule fetch_engine brings. Run it from the project's folder.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from fetch_engine import patched_files
from phase_twin.files import git_blob_id, write_text

BASE = Path("resources/engine/base")
WORK = Path("resources/engine/work")
PATCHES = Path("patches")
SERIES = PATCHES / "series"
SOURCES = Path("config/sources.yaml")

# neutral names and dates: the same commits give the same patch files
FORMAT = ["--zero-commit", "--no-signature", "--no-numbered", "--no-stat", "-N", "--no-renames"]


def git(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run git in the work tree."""
    return subprocess.run(["git", "-C", WORK, *arguments], check=check, text=True, capture_output=True)


def unpack() -> None:
    """Make the work tree: tag `base`, then one commit per patch."""
    if not (BASE / ".origin").exists():
        sys.exit("resources/engine/base is missing: snakemake --cores 2 fetch_engine")
    if WORK.exists():
        sys.exit(f"{WORK} exists: refresh from it, or remove it first")
    shutil.copytree(BASE, WORK, symlinks=True)
    git("init", "-q", "-b", "series")
    git("config", "user.name", "Phase Twin")
    git("config", "user.email", "dev@phase-twin.invalid")
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "base")
    git("tag", "base")
    for name in SERIES.read_text().split():
        done = git("am", "-q", "--keep-cr", (PATCHES / name).resolve(), check=False)
        if done.returncode != 0:
            sys.exit(
                f"{name} does not apply: {done.stderr.strip()}\n"
                f"  cd {WORK}; git am --show-current-patch=diff; mend and `git add` the files; git am --continue\n"
                f"  then apply the rest of {SERIES} with git am, and run: scripts/patches.py refresh"
            )
    print(f"{WORK}: amend, add or reorder the commits after the tag `base`, then: scripts/patches.py refresh")


def refresh() -> None:
    """Write the series and the pinned blob ids from the commits after `base`."""
    for old in PATCHES.glob("*.patch"):
        old.unlink()
    made = git("format-patch", *FORMAT, "-o", PATCHES.resolve(), "base").stdout.split()
    SERIES.write_text("".join(f"{Path(path).name}\n" for path in made))
    touched = patched_files("".join(Path(path).read_text() for path in made))
    pins = "".join(f"    {path}: {git_blob_id(BASE / path)}\n" for path in sorted(touched))
    text = SOURCES.read_text()
    write_text(SOURCES, re.sub(r"  blobs:.*\n(?:    .*\n)*", lambda _: f"  blobs:\n{pins}", text))
    print(f"{len(made)} patches in {PATCHES}, {len(pins.splitlines())} blob ids in {SOURCES}")


if __name__ == "__main__":
    commands = {"unpack": unpack, "refresh": refresh}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
