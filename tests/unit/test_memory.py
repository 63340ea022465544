"""Packing and pruning stream: memory use does not depend on the size of the files."""

import subprocess
import sys
from pathlib import Path

import pytest

import gguf_files
from gguf_files import IQ3_A770, IQ4_A770, IQ4_KEYS, PLAIN, Q4_K, Q6_K, Raw, expert

LIMIT_MB = 300
ORDER = [expert(layer, "up") for layer in range(8)]
# a fresh process each, since a peak never falls again; and VmHWM, since ru_maxrss starts at that of pytest
# fsync would only wait for the disk
PACK = r"""
import os, re, sys
from pathlib import Path
from pack_twin import pack
os.fsync = lambda _: None
*variants, out, order = sys.argv[1:]
pack([Path(path) for path in variants], Path(out), order.split(","), None)
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""
# the other way to copy, by reading: file systems where the kernel does not copy
PRUNE = r"""
import os, re, sys
from pathlib import Path
from prune_dual.cli import main
from prune_dual.container import writing
os.fsync = lambda _: None
writing.KERNEL_COPIES.clear()
assert main(["--dual", *sys.argv[1:]]) == 0
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_mb(root: Path, code: str, *arguments: str | Path) -> int:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=root / "scripts", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) // 1024


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    for path in tmp_path.glob("*.gguf"):  # pytest keeps the folders of its last runs
        path.unlink()


def test_pack_and_prune_of_2_gb_hold_less_than_300_mb(root, folder):
    shape = (2048, 512, 216)
    variants = [
        gguf_files.write(
            folder / f"{kind}.gguf",
            PLAIN,
            [Raw("token_embd.weight", (2048, 60000), Q6_K), *(Raw(name, shape, kind) for name in ORDER)],
        )
        for kind in (IQ3_A770, Q4_K)
    ]
    twin, out = folder / "twin.gguf", folder / "out.gguf"
    packing = peak_mb(root, PACK, *variants, twin, ",".join(ORDER))
    assert twin.stat().st_size > 1.8e9
    pruning = peak_mb(root, PRUNE, twin, "--out", out, "--variant", "0")
    assert out.stat().st_size > 0.8e9
    print(f"peak memory: pack {packing} MB, prune {pruning} MB")
    assert packing < LIMIT_MB
    assert pruning < LIMIT_MB


def test_splitting_and_weaving_of_300_mb_hold_less_than_150(root, folder):
    tensors = [Raw(name, (2048, 512, 256), IQ4_A770) for name in ORDER[:2]]
    model = gguf_files.write(folder / "model.gguf", [*PLAIN, *IQ4_KEYS], tensors)
    twin, out = folder / "twin.gguf", folder / "out.gguf"
    packing = peak_mb(root, PACK, model, twin, ",".join(ORDER[:2]))
    pruning = peak_mb(root, PRUNE, twin, "--out", out, "--variant", "1", "--verify")
    assert out.stat().st_size > 290e6
    print(f"peak memory: pack {packing} MB, prune {pruning} MB")
    assert packing < LIMIT_MB / 2
    assert pruning < LIMIT_MB / 2
