"""The workflow runs where its user stands: what is the project's stays there, what a run makes is made here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from file_state import state
from small_run import NANO_CONFIG, RESULTS, copy_engine


@pytest.fixture
def clone(root, tmp_path) -> Path:
    """The project as cloned, nothing made."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0")[:-1]:
        target = tmp_path / "the project" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
    return tmp_path / "the project"


def planned(done) -> dict[str, int]:
    """Jobs of a dry run: rule -> count."""
    assert done.returncode == 0, done.stdout
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)}


def test_a_dry_run_from_elsewhere_plans_what_one_in_the_project_does(clone, snakemake, tmp_path):
    (tmp_path / "here").mkdir()
    nano, before = ("-n", "--configfile", clone / NANO_CONFIG), state(clone)
    from_cwd = planned(snakemake(*nano, "-s", clone / "Snakefile", cwd=tmp_path / "here"))
    by_option = planned(snakemake(*nano, "--directory", tmp_path / "there", cwd=clone))
    assert state(clone) == before
    assert planned(snakemake(*nano, cwd=clone)) == from_cwd == by_option


def test_parts_of_the_project_have_short_names_in_its_folder_only(root, snakemake, tmp_path):
    arguments = ("-n", "-p", "--forceall", "--configfile", root / NANO_CONFIG)
    here = snakemake(*arguments, "--", "prune_9mib")
    there = snakemake(*arguments, "--directory", tmp_path, "--", "prune_9mib")
    assert "python scripts/prune-dual.py --dual results/" in here.stdout
    assert f"python {root}/scripts/prune-dual.py --dual results/" in there.stdout


def test_a_model_is_made_beside_a_project_that_stays_as_it_was(clone, snakemake, tmp_path, engine_bin):
    made = tmp_path / "made here"
    copy_engine(made)
    # a path of the user's is seen from where the run is, then from the project, which has the checkpoint
    (made / "my.txt").write_bytes((clone / "models/nex-n2-nano/calibration.txt").read_bytes())
    before = state(clone)
    done = snakemake(
        *("-s", clone / "Snakefile", "--configfile", clone / NANO_CONFIG, "--directory", made),
        *("--config", "imatrix={corpus: 'local:my.txt', chunks: 4}", "--", "rank_layers"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert (made / RESULTS / "rank/layers.json").exists()
    assert state(clone) == before


def test_a_folder_that_cannot_be_written_is_one_line(clone):
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no mounts of its own for a process here")
    command = (
        f'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" && {sys.executable} -m snakemake -n --cores 1'
    )
    done = subprocess.run([*unshare, "sh", "-c", command], cwd=clone, capture_output=True, text=True)
    assert done.returncode != 0
    told = f"{clone} cannot be written: say with --directory where results go"
    # a dry run tells everything on stdout
    assert told in done.stdout.splitlines()
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_folder_is_told_before_anything_runs(root, snakemake, tmp_path, linked):
    place = tmp_path / (RESULTS if linked else "results")
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("/nonexistent/disk") if linked else place.touch()
    done = snakemake("-n", "-s", root / "Snakefile", "--configfile", root / NANO_CONFIG, cwd=tmp_path)
    assert done.returncode != 0
    assert f"{place} is no folder, nor a link to one: move it away\n" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_path_that_is_nowhere_is_told_with_where_it_was_sought(root, snakemake, tmp_path):
    arguments = ("-n", "-s", root / "Snakefile", "--configfile", root / NANO_CONFIG)
    done = snakemake(*arguments, "--config", "imatrix={corpus: 'local:no.txt'}", cwd=tmp_path)
    assert done.returncode != 0
    assert f"local:no.txt: no such file or folder; give a path as seen from {tmp_path} or {root}\n" in done.stdout


def test_the_snakefile_alone_is_no_project(root, snakemake, tmp_path):
    shutil.copy(root / "Snakefile", tmp_path)
    shutil.copytree(root / "rules", tmp_path / "rules")
    done = snakemake("-n", cwd=tmp_path)
    assert done.returncode != 0
    assert f"{tmp_path} holds no scripts/: the workflow needs its whole folder" in done.stdout
