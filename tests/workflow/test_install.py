"""install-nx2.sh on the nano release, with the real engine: interrupted at each step, and called again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from prune_dual import VARIANT_PREFIX, Gguf

pytestmark = pytest.mark.nano

TWIN = "Nex-N2-nano-twin.gguf"
FITTED, LAUNCHER = "Nex-N2-nano-twin-0.518gib.gguf", "run-Nex-N2-nano-twin-0.518gib.sh"
SCRIPTS = ["install-nx2.sh", "prune-dual.py", "manifest.json", "curve.json"]
INSTALLED = sorted([*SCRIPTS, FITTED, LAUNCHER])
INSTALL = ("./install-nx2.sh", "--vram-gib", "0.518", "--ctx", "512", "--yes", "--delete-dual")
# sourced by the script: sends it a signal just before the command that matches
KILLER = "trap 'if [[ $BASH_COMMAND == $KILL_AT ]]; then kill -$KILL_BY $$; fi' DEBUG\n"
STEPS = ["proposal=*", "text=*", "*prune*/dev/null", "printf*text*", "chmod *", "mv *", "said=*", "rm *"]


@pytest.fixture
def release(nano, tmp_path) -> Path:
    """A release with its twin, as downloaded."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in (*SCRIPTS, TWIN):
        shutil.copy2(nano / "release" / name, folder)
    return folder


@pytest.fixture
def environment(engine_bin) -> dict[str, str]:
    """With a Python that has gguf, and the engine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "NX2_BIN": str(engine_bin("llama-completion").parent)}


@pytest.fixture
def call(release, environment):
    """Run a command in the release's folder."""

    def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=release, env=environment | env, text=True, capture_output=True, stdin=subprocess.DEVNULL
        )
        done.stdout += done.stderr
        return done

    return run


@pytest.mark.parametrize(
    ("step", "name"), [*((step, "SIGKILL") for step in STEPS), ("mv *", "SIGTERM"), ("said=*", "SIGINT")]
)
def test_an_interrupted_installation_goes_on(release, call, tmp_path, step, name):
    killer = tmp_path / "killer"
    killer.write_text(KILLER)
    done = call(*INSTALL, BASH_ENV=str(killer), KILL_AT=step, KILL_BY=name.removeprefix("SIG"))
    assert done.returncode == -signal.Signals[name], done.stdout
    assert (release / TWIN).exists()

    done = call(*INSTALL)
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in release.iterdir()) == INSTALLED
    assert not [key for key in Gguf.read(release / FITTED).kv if key.startswith(VARIANT_PREFIX)]


def test_killed_at_any_time_with_all_it_started(release, call, environment):
    for tenth in range(1, 12):
        run = subprocess.Popen(
            INSTALL[:-1], cwd=release, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(tenth / 10)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    done = call(*INSTALL)
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in release.iterdir()) == INSTALLED


def test_a_damaged_twin_is_kept(release, call):
    with open(release / TWIN, "r+b") as file:
        file.seek(Gguf.read(release / TWIN).data_start + 1000)
        file.write(b"other bytes")
    done = call(*INSTALL)
    assert done.returncode == 1
    assert "but the manifest says" in done.stdout
    assert (release / TWIN).exists()
    assert not (release / FITTED).exists()


def test_a_fitted_file_that_was_damaged_since_is_not_enough(release, call):
    done = call(*INSTALL[:-1])
    assert done.returncode == 0, done.stdout
    with open(release / FITTED, "r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"other bytes")
    done = call(*INSTALL)
    assert done.returncode == 1
    assert "does not have the bytes it has in" in done.stdout
    assert (release / TWIN).exists()


def test_the_card_that_was_detected_is_named(call, tmp_path):
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho 'Available devices:'; echo '  CUDA0: Some card (531 MiB, 500 MiB free)'\n")
    program.chmod(0o755)
    done = call("./install-nx2.sh", "--ctx", "512", NX2_BIN=str(tmp_path))
    assert done.returncode == 1
    assert "found Some card, 531.00 MiB (CUDA0)" in done.stdout
    assert "of the promotion" in done.stdout  # the table of what each choice gives
    assert "predicted KLD" in done.stdout
    assert "pass --yes" in done.stdout
    # the engine itself is built for the CPU
    done = call("./install-nx2.sh", "--ctx", "512")
    assert done.returncode == 1
    assert "llama-server lists no graphics card that counts" in done.stdout
