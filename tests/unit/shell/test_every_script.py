"""What all scripts of a release keep to."""

import subprocess

import pytest

from release_shell import SCRIPTS, SHELLCHECK, run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script, release):
    rendered = next(path for path in release.rglob(script.name))
    done = subprocess.run([SHELLCHECK, script, rendered], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_and_unknown_options(script, release, fakes):
    rendered = next(path for path in release.rglob(script.name))
    done = run(rendered, "--help", path=fakes)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    done = run(rendered, "--nope", path=fakes)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{script.name}: unknown option '--nope'")
    assert len(done.stderr.splitlines()) == 1
