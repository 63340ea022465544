"""What `make` says on a machine that lacks something."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ("make", "bash", "sh", "nproc", "git", "c++", "python3")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("c++", "A C++ compiler is needed (Debian, Ubuntu: apt install g++)"),
        ("git", "git is needed (Debian, Ubuntu: apt install git)"),
        (
            "python3",
            "Python 3.11 or newer is needed (Debian, Ubuntu: apt install python3 python3-venv)",
        ),
    ],
)
def test_a_missing_program_is_one_sentence(root, tmp_path, missing, sentence):
    for name in set(NEEDED) - {missing}:
        # python3 on the PATH may be a shim that needs more than itself
        found = Path(sys.base_prefix, "bin/python3") if name == "python3" else shutil.which(name)
        (tmp_path / name).symlink_to(found)
    # a virtual environment elsewhere, so that the one in use does not answer for the machine
    command = ["make", "--silent", "-C", root, "host", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == sentence


def test_a_missing_clang_is_one_sentence(root, tmp_path):
    for name in ("make", "bash", "sh", "nproc"):
        (tmp_path / name).symlink_to(shutil.which(name))
    command = ["make", "--silent", "-C", root, "clang", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "clang 22 is needed for the SYCL tests (Debian: apt install clang-22)"
