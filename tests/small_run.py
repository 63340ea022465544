"""Copies of the project with the finished engine, whose whole run takes less than a minute."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from phase_twin.files import sha256_file

ROOT = Path(__file__).resolve().parent.parent
KILLS = 20  # that docs/faults.md promises; each takes ten seconds, so more are tried by hand
MORE_KILLS = "PHASE_TWIN_KILLS"
NANO_CONFIG = "config/nano.yaml"
LEGACY_ENV = "GGUF_IQ3_A770_LEGACY_ID"

Run = Callable[..., subprocess.CompletedProcess[str]]

MODEL = "models/ein kleines Modell für Prüfungen"
OVERLAY = f"""\
model: {{checkpoint: "local:{MODEL}/checkpoint"}}
imatrix: {{corpus: "local:{MODEL}/calibration.txt", chunks: 4}}
variants:
  - {{gate: IQ3_A770, up: IQ3_A770, down: IQ3_A770, rest: Q6_K, feedback: false}}
  - {{gate: Q4_K, up: Q4_K, down: Q4_K, rest: Q6_K}}
rank: {{method: weighted_error, chunks: 1, curve: [50]}}
bench:
  compare: []
  compare_to: null
  quality: {{corpus: "local:{MODEL}/evaluation.txt", chunks: 1}}
  speed: {{n_prompt: 16, n_gen: 4, depths: [0], repetitions: 2}}
"""
# tests that run beside each other share two cores
CORES = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
RUN = ("--cores", str(CORES), "--rerun-incomplete", "--configfile", NANO_CONFIG, "overlay.yaml")
RESULTS, MODELS = "results/nex-n2-nano", "resources/models/nex-n2-nano"


def new_project(folder: Path) -> Path:
    """Make a copy of the project, with the engine (which must be built) and nothing else that a run makes."""
    made = (".venv*", ".git", ".snakemake", "resources", "results", "logs", "benchmarks", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*made))
    copy_engine(folder)
    shutil.copytree(ROOT / "models/nex-n2-nano", folder / MODEL)
    (folder / "overlay.yaml").write_text(OVERLAY, encoding="utf-8")
    return folder


def copy_engine(folder: Path) -> None:
    """Put the engine, which must be built, where a run in `folder` has it."""
    # new times, in the order in which the parts are made: newer than all that they are made from
    for name in ("source.json", "source", "cpu/bin", "cpu/engine.json", "cpu/tests.json"):
        source, target = ROOT / "resources/engine" / name, folder / "resources/engine" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, copy_function=shutil.copy)
        else:
            shutil.copy(source, target)


def snakemake(project: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a target as the whole is run, or with other arguments; output is returned as text."""
    command = [sys.executable, "-m", "snakemake", *RUN, *arguments]
    return subprocess.run(
        command, cwd=project, env=os.environ | env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_in_an_odd_place(folder: Path) -> Path:
    """A whole run whose path has blanks, quotes and umlauts, whose results/ is a link, and whose locale is C."""
    project = new_project(folder / "ein Ordner für “Fehler” & 'mehr'")
    (folder / "anderswo").mkdir()
    (project / "results").symlink_to(folder / "anderswo")
    done = snakemake(project, LC_ALL="C", LANG="", PYTHONUTF8="")
    assert done.returncode == 0, done.stdout[-3000:]
    return project


def made_models(project: Path) -> dict[str, str]:
    """SHA-256 of every GGUF file that a run made; logits and measured times are no files of these."""
    folders = [project / RESULTS, project / MODELS]
    return {path.name: sha256_file(path) for folder in folders for path in folder.glob("*.gguf")}


def leftovers(project: Path) -> list[Path]:
    """What should have been removed or renamed."""
    files = [path for folder in ("results", "resources/models") for path in (project / folder).rglob("*")]
    return [path for path in files if "partial" in path.name or path.name.endswith((".part", ".tmp"))]
