"""Other working copies of the project, to run or plan things in."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkout(root: Path) -> Callable[[Path], Path]:
    """Make a folder the project as cloned, with what the network would bring: the engine, pristine and patched."""

    def fill(target: Path) -> Path:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
        for name in listed.stdout.split("\0")[:-1]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
        for part in ("base", "source"):
            shutil.copytree(root / "resources/engine" / part, target / "resources/engine" / part, symlinks=True)
        shutil.copy2(root / "resources/engine/source.json", target / "resources/engine")
        return target

    return fill
