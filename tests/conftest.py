"""Fixtures: the project's folder, the built engine, the results of the nano run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NANO_CONFIG = "config/nano.yaml"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def snakemake(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run snakemake in the project's folder (or `cwd`) with the given arguments; output is returned as text."""

    def run(*arguments: str, cwd: Path = root) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), *arguments]
        return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

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
