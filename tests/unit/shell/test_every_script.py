"""What all scripts of a release keep to."""

import shutil
import subprocess

import pytest

from release_shell import SCRIPTS, SHELLCHECK, run

OPTIONS = {
    "bench-nx2.sh": ["--sm", "--depths", "--rounds", "--prompt", "--gen", "--threads", "--dev", "--out"],
    "build.sh": ["--arch", "--source", "--jobs"],
    "install-nx2.sh": ["--vram-gib", "--ctx", "--dual", "--out"],
    "run-nx2.sh": ["--sm", "--budget-mib", "--vram-gib", "--ctx"],
}


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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_called_by_sh_and_by_a_relative_name_with_a_cdpath(script, release, fakes):
    rendered = next(path for path in release.rglob(script.name))
    # what shows the script's own folder
    shows = "--print" if script.name == "run-nx2.sh" else "--help"
    (fakes / "sh").symlink_to(shutil.which("dash") or shutil.which("sh"))
    command = f'cd "$1" && CDPATH=$1 exec sh "$2" {shows}'
    done = run(
        fakes / "sh", *("-c", command, "x", str(release.parent), str(rendered.relative_to(release.parent))), path=fakes
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == run(rendered, shows, path=fakes).stdout


@pytest.mark.parametrize(
    ("name", "option"),
    [(script.name, option) for script in SCRIPTS for option in OPTIONS[script.name]],
)
def test_an_empty_value_is_none(name, option, release, fakes):
    """What a shell makes of a variable that is not set."""
    done = run(next(release.rglob(name)), option, "", path=fakes)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: {option} needs a value")
