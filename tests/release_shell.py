"""The rendered scripts of a release, and how tests run them with fake programs around."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from phase_twin.sources import load_sources
from small_run import ROOT

SCRIPTS = sorted((ROOT / "release").glob("*.sh"))
TWIN = "Some Model-twin.gguf"  # a user may rename it
ENGINE = load_sources(ROOT / "config/sources.yaml").engine.model_dump()
BUILT = shlex.split(
    "llama-server llama-cli llama-completion llama-bench llama-quantize llama-imatrix llama-perplexity "
    "llama-variant-info"
)
# what the scripts call beside the programs under test
SYSTEM = shlex.split(
    "bash basename cat chmod cp cut dirname env git grep gzip id ls mkdir mktemp mv nproc readlink rm sed sha256sum "
    "tail tar timeout touch"
)
# what an engine may list, and which of it are the cards
HEAD = "Available devices:\n"
RTX4090 = "NVIDIA GeForce RTX 4090 (24077 MiB, 23600 MiB free)"
RTX3060 = "NVIDIA GeForce RTX 3060 (11909 MiB, 11700 MiB free)"
UHD = "Intel(R) UHD Graphics 770 (60000 MiB, 59000 MiB free)"
ARC = "Intel(R) Arc(TM) A770 Graphics (15473 MiB, 15000 MiB free)"
LUNAR_LAKE = "Intel(R) Arc(TM) 140V GPU (16GB) (17000 MiB, 16500 MiB free)"
PHOENIX = "AMD Radeon 780M Graphics (RADV PHOENIX) (31000 MiB, 30000 MiB free)"
UNNAMED = "AMD Radeon Graphics (32752 MiB, 32700 MiB free)"
XTX = "AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 24000 MiB free)"
LISTINGS = [
    (HEAD + "".join(f"  {name}: {card}\n" for name, card in listed), cards)
    for listed, cards in (
        ([("CUDA0", RTX4090), ("CUDA1", RTX3060)], ["CUDA0", "CUDA1"]),
        ([("CUDA0", RTX3060), ("CUDA1", RTX4090)], ["CUDA0", "CUDA1"]),
        ([("CUDA0", RTX3060)], ["CUDA0"]),
        ([("SYCL0", UHD), ("SYCL1", ARC)], ["SYCL1"]),
        ([("SYCL0", LUNAR_LAKE)], ["SYCL0"]),
        ([("SYCL0", LUNAR_LAKE), ("SYCL1", ARC)], ["SYCL1"]),
        ([("Vulkan0", PHOENIX), ("Vulkan1", RTX4090)], ["Vulkan1"]),
        ([("Vulkan0", PHOENIX)], ["Vulkan0"]),
        ([("Vulkan0", XTX), ("Vulkan1", RTX3060)], ["Vulkan0", "Vulkan1"]),
        # cards without a name, and integrated graphics beside a card that has one
        ([("ROCm0", UNNAMED), ("ROCm1", UNNAMED)], ["ROCm0", "ROCm1"]),
        ([("ROCm0", XTX), ("ROCm1", UNNAMED)], ["ROCm0"]),
        # two backends see the same cards
        ([("CUDA0", RTX4090), ("Vulkan0", RTX4090), ("Vulkan1", XTX)], ["CUDA0"]),
        ([("SYCL0", UHD), ("Vulkan0", UHD), ("Vulkan1", RTX4090)], ["Vulkan1"]),
        ([("CUDA0", "A card, (rev. 2), 12 MiB free (100 MiB, 90 MiB free)"), ("CUDA1", RTX3060)], ["CUDA0", "CUDA1"]),
        ([("CUDA9", RTX4090), ("CUDA10", RTX3060)], ["CUDA9", "CUDA10"]),
        ([("BLAS", "OpenBLAS (0 MiB, 0 MiB free)"), ("CUDA0", RTX4090)], ["CUDA0"]),
        ([("SYCL0", UHD)], []),
        ([], []),
    )
]
LISTINGS.append((f"ggml: found 1\n{HEAD}  (none)\n", []))
LISTINGS.append((f"{HEAD}  CUDA0: {RTX4090}\r\n  CUDA1: {RTX3060}\r\n", ["CUDA0", "CUDA1"]))
SHELLCHECK = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))


def work_of(release: Path) -> Path:
    """Where build.sh keeps what it fetches."""
    return release / "build" / "work"


def program(folder: Path, name: str, body: str) -> Path:
    """Put a fake program there; it never writes through a link to a real one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, path: Path, **env: str) -> subprocess.CompletedProcess:
    base = {"PATH": str(path), "HOME": str(path), "NX2_SYSFS": str(path / "no-sysfs"), "ONEAPI_ROOT": str(path / "no")}
    return subprocess.run(
        [script, *arguments], env=base | env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )
