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
    "bash basename cat chmod cp cut dirname env git grep gzip id ls mkdir mv nproc readlink rm sed sha256sum tail tar "
    "touch"
)
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
