"""A release folder with its scripts, and fake programs for them."""

import shlex
import shutil

import pytest

from phase_twin.card import render, shell_safe
from release_shell import ENGINE, SCRIPTS, SYSTEM, TWIN
from small_run import ROOT


@pytest.fixture
def fakes(tmp_path):
    """A folder for fake programs, with links to the ordinary ones: nothing else is on the PATH."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in SYSTEM:
        (folder / name).symlink_to(shutil.which(name))
    return folder


@pytest.fixture
def release(tmp_path, fakes):
    """A release folder with the rendered scripts; its path has a space, and so has the twin's name."""
    folder = tmp_path / "a release"
    (folder / "build").mkdir(parents=True)
    for script in SCRIPTS:
        target = folder / ("build" if script.name == "build.sh" else ".") / script.name
        text = render(script.read_text(), {"twin": {"name": "@"}, "engine": ENGINE}, script.name, shell_safe)
        target.write_text(text.replace("'@'", shlex.quote(TWIN)))
        target.chmod(0o755)
    # as in the hub's cache
    (folder / "bench-nx2.py").symlink_to(ROOT / "release/bench-nx2.py")
    (folder / TWIN).write_bytes(b"GGUF")
    (folder / "build/llama.cpp-turbo-phase-twin.patch").write_text("")
    return folder
