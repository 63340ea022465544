"""dev/run: what it lists, what it runs and with which path, what it says of a name that it does not know."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """\"\"\"What it is for.

usage: dev/run show ARGS
\"\"\"

import shared

if __name__ == "__main__":
    shared.show()
"""
SHARED = "import sys\n\n\ndef show():\n    print(sys.executable, *sys.argv[1:])\n"


@pytest.fixture
def project(root, tmp_path) -> Path:
    """A project in a folder with a space, with one command, and one module that is none."""
    project = tmp_path / "a project"
    for folder in ("dev", "scripts"):
        (project / folder).mkdir(parents=True)
    shutil.copy(root / "dev/run", project / "dev")
    (project / "dev/show.py").write_text(COMMAND)
    (project / "dev/tables.py").write_text('"""Arithmetic."""\n')
    (project / "scripts/shared.py").write_text(SHARED)
    return project


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it from another folder."""
    return subprocess.run([project / "dev/run", *arguments], cwd=project.parent, capture_output=True, text=True)


def test_commands_are_listed_with_what_they_are_for(project):
    assert run(project).stdout == "show             What it is for.\n"


def test_a_command_finds_what_scripts_share_and_gets_its_arguments(project):
    done = run(project, "show", "a b", "--c")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(" a b --c\n")


def test_the_environment_of_the_project_is_taken(project):
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho taken\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert run(project, "show").stdout.startswith("taken\n")


@pytest.mark.parametrize("name", ["nothing", "../scripts/shared", ""])
def test_an_unknown_name_is_one_line(project, name):
    done = run(project, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'dev/run: no command "{name}"; dev/run without arguments lists them\n'


def test_every_command_of_the_project_is_listed(root):
    listed = [line.split(maxsplit=1) for line in run(root).stdout.splitlines()]
    assert [name for name, _ in listed] == sorted(
        path.stem for path in (root / "dev").glob("*.py") if "\nif __name__ ==" in path.read_text()
    )
