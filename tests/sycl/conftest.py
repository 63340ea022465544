"""The programs with the SYCL backend, for the tests in this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sycl(root, snakemake) -> Callable[[str], list[Path]]:
    """How to start a program with the SYCL backend."""
    done = snakemake("build_sycl")
    assert done.returncode == 0, done.stdout
    return lambda name: [root / "toolchain/sycl/sycl-run", root / "resources/engine/sycl-test/bin" / name]
