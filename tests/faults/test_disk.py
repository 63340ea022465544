"""A disk that is full or cannot be written, in every step that writes much; making room is all it takes to go on."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from phase_twin.files import sha256_file
from small_run import MODELS, RESULTS, leftovers, new_project, snakemake

TITLE = "Nex-N2-nano"
# rule -> a file it makes, and KiB that are too little for it
STEPS = {
    "convert_checkpoint": (f"{MODELS}/{TITLE}-BF16.gguf", 1000),
    "compute_imatrix": (f"{RESULTS}/imatrix.gguf", 100),
    "write_reference_logits": (f"{MODELS}/reference.kld", 200),
    "quantize_recipe": (f"{MODELS}/{TITLE}-variant1.gguf", 5000),
    "pack_twin": (f"{RESULTS}/{TITLE}-twin.gguf", 3000),
    "prune": (f"{RESULTS}/{TITLE}-9mib.gguf", 3000),
}


class Disk:
    """A small file system of its own for all that a run makes."""

    def __init__(self, project: Path) -> None:
        self.project, self.folder = project, project / "disk"
        for part in ("results", "models"):
            (self.folder / part).mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", self.folder], check=True)
        for part in ("results", "models"):
            (self.folder / part).mkdir()
        (project / "results").symlink_to("disk/results")
        (project / "resources/models").symlink_to("../disk/models")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def leave(self, kib: int) -> None:
        """Let so much be free."""
        used = os.statvfs(self.folder)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024
        self.remount(f"size={taken + kib}k")

    def make_room(self) -> None:
        self.remount("size=400m")

    def digests(self) -> dict[str, str]:
        """What is on it."""
        return {str(path): sha256_file(path) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def disk(engine_bin, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    project = new_project(tmp_path_factory.mktemp("disk") / "project")
    try:
        disk = Disk(project)
    except subprocess.CalledProcessError:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", disk.folder], check=True)


@pytest.mark.parametrize("rule", STEPS)
def test_a_full_disk(disk, rule):
    """One line names the rule, the file and what to do; nothing that was there is lost, and nothing half done stays."""
    path, kib = STEPS[rule]
    disk.make_room()
    done = snakemake(disk.project, "--omit-from", rule, "--", path)  # all that it is made from
    assert done.returncode == 0, done.stdout[-3000:]
    before = disk.digests()
    disk.leave(kib)
    done = snakemake(disk.project, "--", path)
    assert done.returncode != 0
    message = re.search(f"^.*ERROR {rule}: (.*\n(?:  .*\n)*)|^(prune-dual: .*)", done.stdout, re.MULTILINE)
    assert message, done.stdout
    assert Path(path).name in message[0]
    assert "make room" in message[0]
    assert disk.digests() == before
    assert leftovers(disk.project) == []

    disk.make_room()
    done = snakemake(disk.project, "--", path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (disk.project / path).exists()


def test_a_folder_that_cannot_be_written(disk):
    """Nothing is lost, and after it can be written the run goes on."""
    disk.make_room()
    path = f"{MODELS}/{TITLE}-variant0.gguf"
    assert snakemake(disk.project, "--omit-from", "quantize_recipe", "--", path).returncode == 0
    for made in (path, f"{path}.sha256"):  # of what is there Snakemake itself says that it is write-protected
        (disk.project / made).unlink(missing_ok=True)
    before = disk.digests()
    disk.remount("ro")
    done = snakemake(disk.project, "--", path)
    disk.remount("rw")
    assert done.returncode != 0
    assert f"{RESULTS}/ cannot be written: make it writable and run again" in done.stdout
    assert "Traceback" not in done.stdout
    assert disk.digests() == before
    assert snakemake(disk.project, "--", path).returncode == 0
