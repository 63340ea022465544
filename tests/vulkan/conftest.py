"""The programs with the Vulkan backend, for the tests in this folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phase_twin.lavapipe import on_lavapipe


@pytest.fixture(scope="session")
def vulkan(root, snakemake) -> Callable[[str], list[Path]]:
    """How to start a program with the Vulkan backend."""
    done = snakemake("resources/engine/vulkan/engine.json")
    assert done.returncode == 0, done.stdout
    return lambda name: [root / "resources/engine/vulkan/bin" / name]


@pytest.fixture(autouse=True, scope="session")
def lavapipe():
    """Programs see the device that is the CPU, and count dispatches."""
    os.environ |= on_lavapipe() | {"GGML_VK_STATS": "1"}
