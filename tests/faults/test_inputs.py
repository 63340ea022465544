"""Inputs that change, break, or lie about their time; whoever runs the pipeline twice at once."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from phase_twin.errors import UserError
from phase_twin.files import REMEDIES, as_user_error, atomic_output, check_digest, write_digest
from phase_twin.rule import run_rule, run_tool
from phase_twin.run_lock import clear_stale_locks, hold_run_lock
from prune_dual import GgufError, Twin, prune, select
from small_run import MODEL, MODELS, RESULTS, RUN, leftovers, made_models, snakemake

BF16 = f"{MODELS}/Nex-N2-nano-BF16.gguf"
VARIANT1 = f"{MODELS}/Nex-N2-nano-variant1.gguf"


@pytest.fixture(scope="module")
def project(undisturbed, tmp_path_factory) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(undisturbed, tmp_path_factory.mktemp("inputs") / "project")


def suspended_tool(run: subprocess.Popen) -> psutil.Process | None:
    """llama-quantize as soon as it is seen, suspended; None if the run ended before."""
    while run.poll() is None:
        for child in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name() == "llama-quantize":
                    child.suspend()
                    return child
    return None


def quantize(project: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """Make variant 1 anew, and stop in the midst of it."""
    # on a busy machine it may be over before it is seen
    for _ in range(20):
        (project / VARIANT1).unlink()
        command = [sys.executable, "-m", "snakemake", *RUN, "--", VARIANT1]
        run = subprocess.Popen(command, cwd=project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        tool = suspended_tool(run)
        with suppress(psutil.NoSuchProcess):
            while tool and tool.status() != psutil.STATUS_ZOMBIE:
                if any(path.stat().st_size for path in leftovers(project)):
                    return run, tool
                tool.resume()
                time.sleep(0.001)
                tool.suspend()
        said = run.communicate()[0]
        assert run.returncode == 0, said
    raise AssertionError("llama-quantize was never seen")


def flip(path: Path, at: int) -> None:
    """Change one bit, and not the time."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# first what leaves the project as it was, then what makes parts of it anew


@pytest.mark.parametrize("path", [f"{MODEL}/calibration.txt", BF16])
def test_a_time_to_come_is_refused(project, path):
    """Else an input would be new in every run, and a result would hide that its inputs changed."""
    times = (project / path).stat()
    os.utime(project / path, (times.st_atime, time.time() + 86400))
    try:
        done = snakemake(project, "-n")
        assert done.returncode != 0
        assert f"{path}: its time, " in done.stdout
        assert "check the clock, then touch" in done.stdout
    finally:
        os.utime(project / path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_input_of_long_ago_is_no_news(project):
    path = project / MODEL / "checkpoint/model-00001-of-00004.safetensors"
    times = path.stat()
    os.utime(path, (0, 0))
    try:
        assert "Nothing to be done" in snakemake(project, "-n").stdout
    finally:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("path", "target", "rule"),
    [
        (f"{RESULTS}/Nex-N2-nano-twin.gguf", f"{RESULTS}/release/SHA256SUMS", "make_release"),
        (f"{RESULTS}/Nex-N2-nano-mmproj-F16.gguf", f"{RESULTS}/release/SHA256SUMS", "make_release"),
        (BF16, f"{RESULTS}/provenance.json", "write_provenance"),
        (f"{RESULTS}/imatrix.gguf", f"{RESULTS}/provenance.json", "write_provenance"),
        (VARIANT1, f"{RESULTS}/Nex-N2-nano-twin.gguf", "pack_twin"),
    ],
)
def test_a_flipped_bit_stops_the_run(project, path, target, rule):
    """A file that was damaged on the disk after it was made does not go into what is made of it."""
    damaged = project / path
    (project / target).unlink(missing_ok=True)
    flip(damaged, damaged.stat().st_size - 100)
    try:
        done = snakemake(project, "--", target)
        assert done.returncode != 0
        message = next(line for line in done.stdout.splitlines() if f"ERROR {rule}: " in line)
        assert damaged.name in message
        assert "remove" in message
    finally:
        flip(damaged, damaged.stat().st_size - 100)
    done = snakemake(project, "--", target)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_model_that_is_cut_while_it_is_quantized(project):
    before, model = made_models(project), project / BF16
    kept = shutil.copy2(model, project / "kept")
    run, tool = quantize(project)
    os.truncate(model, model.stat().st_size // 8)
    tool.resume()
    said = run.communicate()[0]
    shutil.copy2(kept, model)
    assert run.returncode != 0
    assert "quantize_recipe: llama-quantize failed (killed by signal 7; an input became shorter" in said, said
    assert not (project / VARIANT1).exists()
    done = snakemake(project, "--", VARIANT1)
    assert done.returncode == 0, done.stdout[-3000:]
    assert made_models(project) == before


def test_an_input_that_changes_meanwhile(tmp_path, capsys):
    path = tmp_path / "input"
    path.write_text("old")
    rule = SimpleNamespace(log=[], rule="some_rule", input=[str(path)])
    with pytest.raises(SystemExit):
        run_rule(lambda _: path.write_text("newer"), rule)
    assert f"some_rule: {path}: changed while it was read; run again" in capsys.readouterr().err


def test_a_twin_that_changes_while_it_is_pruned(undisturbed, tmp_path):
    path = Path(shutil.copy(undisturbed / RESULTS / "Nex-N2-nano-twin.gguf", tmp_path / "twin.gguf"))
    twin = Twin.read(path)
    with pytest.raises(GgufError, match=r"twin\.gguf: changed while it was copied"):
        prune(twin, select(twin, variant=0), tmp_path / "out.gguf", progress=lambda *_: flip_now(path))
    assert [file.name for file in tmp_path.iterdir()] == ["twin.gguf"]


def flip_now(path: Path) -> None:
    flip(path, path.stat().st_size - 1)
    os.utime(path)


def test_a_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    write_digest(path, tmp_path / "digest")
    assert check_digest(path, tmp_path / "digest") == (tmp_path / "digest").read_text().split()[0]
    flip(path, 3)
    with pytest.raises(UserError, match=r"file: SHA-256 .* the file is damaged; remove it and run again"):
        check_digest(path, tmp_path / "digest")


def test_two_runs_in_one_folder(project):
    """The second is refused, also where Snakemake's own lock was removed; the first goes on to its end."""
    run, tool = quantize(project)
    second = snakemake(project, "--", VARIANT1)
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout
    for path in (project / ".snakemake/locks").iterdir():
        path.unlink()
    third = snakemake(project, "--", VARIANT1)
    assert third.returncode != 0
    assert f"another run is at work in {project}" in third.stdout
    assert "Traceback" not in third.stdout
    tool.resume()
    assert run.wait(120) == 0, run.stdout.read()
    assert leftovers(project) == []


def test_locks_of_a_killed_run(tmp_path):
    (tmp_path / "locks").mkdir()
    lock = tmp_path / "locks/0.input.lock"
    lock.write_text("file\n")
    code = "import sys, pathlib, time; from phase_twin.run_lock import *; hold_run_lock(pathlib.Path(sys.argv[1]));"
    command = [sys.executable, "-c", f"{code} print(flush=True); time.sleep(60)", tmp_path]
    other = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": "scripts"}, stdout=subprocess.PIPE)
    other.stdout.readline()
    clear_stale_locks(tmp_path)
    assert lock.exists()
    with pytest.raises(UserError, match=r"another run is at work in .*: wait for it, or end it"):
        hold_run_lock(tmp_path)
    other.kill()
    other.wait()
    clear_stale_locks(tmp_path)
    assert not lock.exists()


def test_two_writers_of_one_file(tmp_path):
    with atomic_output(tmp_path / "file") as first, pytest.raises(UserError, match="file: another process is writing"):
        first.write_text("first")
        with atomic_output(tmp_path / "file"):
            pass
    with atomic_output(tmp_path / "file") as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / ".file.partial").write_text("much more than the new content")
    with atomic_output(tmp_path / "file") as partial, open(partial, "r+") as file:
        file.write("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]


@pytest.mark.parametrize("number", REMEDIES)
def test_a_fault_of_the_machine_is_one_line(tmp_path, capsys, number):
    def main(_: object) -> None:
        with atomic_output(tmp_path / "file"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit):
        run_rule(main, SimpleNamespace(log=[], rule="some_rule", input=[]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"some_rule: {tmp_path}/file: {os.strerror(number)}; {REMEDIES[number]}")
    assert as_user_error(FileNotFoundError(2, "no"), "x") is None


def test_a_tool_that_runs_out_of_memory(tmp_path):
    with pytest.raises(UserError, match=r"sh failed \(killed by signal 9; most likely memory ran out: free some"):
        run_tool(["sh", "-c", "kill -KILL $$"], tmp_path / "log")


def test_the_quantizer_without_memory(engine_bin, undisturbed, tmp_path):
    command = [
        "prlimit",
        "--as=40000000",
        engine_bin("llama-quantize"),
        undisturbed / BF16,
        tmp_path / "x",
        "Q4_K",
        "1",
    ]
    with pytest.raises(UserError, match=r"(?s)prlimit failed .*Cannot allocate memory"):
        run_tool(command, tmp_path / "log")
