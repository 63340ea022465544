"""What `disk.lean` leaves, and the most that is on the disk at any time."""

import os
import threading
from pathlib import Path

import pytest

from small_run import MODELS, RESULTS, made_models, new_project
from small_run import snakemake as run_small

BF16, TWIN = "Nex-N2-nano-BF16.gguf", "Nex-N2-nano-twin.gguf"


def disk_bytes(*folders: Path) -> int:
    """What is on the disk, a file with two names once."""
    states = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        try:
            state = os.stat(path)
        except FileNotFoundError:
            continue  # gone meanwhile
        states[state.st_ino] = state.st_blocks * 512
    return sum(states.values())


@pytest.fixture(scope="module")
def lean(engine_bin, tmp_path_factory) -> tuple[Path, str, int]:
    """A whole run: its folder, what it said, and the most bytes that were seen on the disk."""
    project = new_project(tmp_path_factory.mktemp("lean") / "project")
    (project / "lean.yaml").write_text("disk: {lean: true}\n")
    seen, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen[0] = max(seen[0], disk_bytes(project / RESULTS, project / MODELS))

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = run_small(project, "lean.yaml")
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stdout[-3000:]
    return project, done.stdout, seen[0]


def test_the_result_is_the_same(lean, undisturbed):
    kept = made_models(undisturbed)
    left = made_models(lean[0])
    assert {TWIN, "Nex-N2-nano-9mib.gguf", "Nex-N2-nano-10mib.gguf"} < left.keys()
    assert left == {name: kept[name] for name in left}


def test_what_can_be_made_again_is_gone(lean, undisturbed):
    project, said, peak = lean
    assert [path.name for path in (project / MODELS).glob("*.gguf")] == []
    size = (undisturbed / MODELS / BF16).stat().st_size
    assert peak < 2.2 * size < disk_bytes(undisturbed / RESULTS, undisturbed / MODELS)
    # in this order, so that the twin takes the place of the BF16 model
    assert said.index(f"Removing temporary output {MODELS}/{BF16}") < said.index("Pack both variants into the twin")


def test_a_second_run_makes_nothing(lean):
    done = run_small(lean[0], "lean.yaml", "-n")
    assert "Nothing to be done" in done.stdout, done.stdout[-3000:]


def test_the_release_deletes_the_checkpoint_too(snakemake, checkout, tmp_path):
    done = snakemake("-n", cwd=checkout(tmp_path / "project"))
    assert "Would remove temporary output resources/checkpoints/nex-n2-mini\n" in done.stdout
