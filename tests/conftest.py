"""Fixtures: the project's folder and others like it, the built engine, the results of the nano run."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

from small_run import CORES, LEGACY_ENV, NANO_CONFIG, ROOT, Run, run_in_an_odd_place

# what a shell starts in the background ignores SIGINT, and so do the programs that tests interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def checkout(root: Path, engine_bin) -> Callable[[Path], Path]:
    """Make a folder the project as cloned, with the engine: pristine, patched and built."""

    def fill(target: Path) -> Path:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
        for name in listed.stdout.split("\0")[:-1]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
        for part in ("base", "source", "cpu"):
            shutil.copytree(root / "resources/engine" / part, target / "resources/engine" / part, symlinks=True)
        shutil.copy2(root / "resources/engine/source.json", target / "resources/engine")
        return target

    return fill


@pytest.fixture(scope="session")
def snakemake(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run snakemake in the project's folder (or `cwd`) with the given arguments; output is returned as text."""

    def run(*arguments: str, cwd: Path = root) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), *arguments]
        # Snakemake refuses a second run in a folder: tests beside each other wait for theirs
        folder = os.open(cwd, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        finally:
            os.close(folder)

    return run


@pytest.fixture(scope="session")
def engine_bin(root: Path, snakemake) -> Callable[[str], Path]:
    """Path of a program of the built engine; PHASE_TWIN_ENGINE_BIN names another folder of them."""
    if folder := os.environ.get("PHASE_TWIN_ENGINE_BIN"):
        return lambda name: Path(folder) / name
    done = snakemake("--configfile", NANO_CONFIG, "--", "build_engine")
    assert done.returncode == 0, done.stdout
    return lambda name: root / "resources/engine/cpu/bin" / name


@pytest.fixture(scope="session")
def nano(root: Path, snakemake) -> Path:
    """The results folder of a finished nano run."""
    done = snakemake("--configfile", NANO_CONFIG, "--rerun-incomplete")
    assert done.returncode == 0, done.stdout
    return root / "results/nex-n2-nano"


@pytest.fixture(scope="session")
def validate_crate(root: Path) -> Callable[[Path], dict[str, list[dict[str, str]]]]:
    """Issues of the RO-Crate in a folder, by the profiles it names."""
    subprocess.run(["make", "--silent", "setup-validator"], cwd=root, check=True)

    def run(folder: Path) -> dict[str, list[dict[str, str]]]:
        command = [root / ".venv-validator/bin/python", root / "tests/validate_crate.py", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def undisturbed(engine_bin, tmp_path_factory, worker_id) -> Path:
    """A project after a whole run with the settings of `small_run`, in odd surroundings; to be copied, not changed."""
    if worker_id == "master":
        return run_in_an_odd_place(tmp_path_factory.mktemp("odd"))
    # workers, whose folders stand beside each other, share one
    shared = tmp_path_factory.getbasetemp().parent
    told = shared / "undisturbed.txt"
    with FileLock(told.with_suffix(".lock")):
        if not told.exists():
            (shared / "odd").mkdir()
            told.write_text(str(run_in_an_odd_place(shared / "odd")), encoding="utf-8")
        return Path(told.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def nano_report(nano: Path, snakemake) -> Path:
    """The report of the nano run."""
    path = nano / "report.html"
    done = snakemake("--configfile", NANO_CONFIG, "--report", str(path))
    assert done.returncode == 0, done.stdout
    return path


@pytest.fixture(scope="session")
def run(engine_bin) -> Run:
    """Run a program of the engine; output and messages are returned together."""

    def start(program: str, *arguments: object, code: int = 0, legacy: bool = False):
        env = os.environ | {LEGACY_ENV: "1" if legacy else "0"}
        command = [str(part) for part in (engine_bin(program), *arguments)]
        # a model of random weights may say half a character
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=env, text=True, errors="replace", **output)
        assert done.returncode == code, done.stdout[-2000:]
        return done

    return start


@pytest.fixture
def bench_nx2(root: Path, monkeypatch) -> ModuleType:
    """What bench-nx2.sh starts, as a module; release/ stays without its bytecode."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("bench_nx2", root / "release/bench-nx2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bf16(nano, root) -> Path:
    """The nano model before quantization."""
    return root / "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf"
