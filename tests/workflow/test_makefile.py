"""What `make` says on a machine that lacks something."""

import shutil
import subprocess

import pytest

NEEDED = ("make", "bash", "sh", "nproc", "git", "c++", "python3")


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("c++", "A C++ compiler is needed (Debian, Ubuntu: apt install g++)"),
        ("git", "git is needed (Debian, Ubuntu: apt install git)"),
        (
            "python3",
            "Python 3.11 or newer is needed (Debian, Ubuntu: apt install python3 python3-venv; or set PYTHON=)",
        ),
    ],
)
def test_a_missing_program_is_one_sentence(root, tmp_path, missing, sentence):
    for name in set(NEEDED) - {missing}:
        (tmp_path / name).symlink_to(shutil.which(name))
    # a virtual environment elsewhere, so that the one in use does not answer for the machine
    command = ["make", "--silent", "-C", root, "host", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == sentence
