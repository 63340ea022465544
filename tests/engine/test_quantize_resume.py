"""llama-quantize --resume: what an interrupted run has finished is kept, and the file is what it would have been."""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prune_dual import Gguf, Tensor

pytestmark = [pytest.mark.engine, pytest.mark.nano]


Quantize = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def quantize(engine_bin, bf16, nano) -> Quantize:
    """Quantize the nano model with --resume; writing more than `most` bytes kills the run."""

    def start(out: Path, *options: object, kind: str = "Q4_K", resume: bool = True, most: int = -1):
        command = [engine_bin("llama-quantize"), *(["--resume"] if resume else []), "--imatrix", nano / "imatrix.gguf"]
        return subprocess.run(
            [str(part) for part in (*command, *options, bf16, out, kind, 2)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )

    return start


@pytest.fixture(scope="module")
def whole(quantize, tmp_path_factory) -> Path:
    """The file of a run without --resume."""
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    assert quantize(path, resume=False).returncode == 0
    return path


@pytest.fixture(scope="module")
def died(quantize, whole) -> int:
    """How many tensors a run finished that died in the middle of one, beside `whole`."""
    number, tensor = middle(whole)
    done = quantize(whole.with_name("out.gguf"), most=tensor.data.offset + tensor.nbytes // 2)
    assert done.returncode == -signal.SIGXFSZ
    return number


@pytest.fixture
def out(whole, died, tmp_path) -> Path:
    """What that run left."""
    for name in ("out.gguf", "out.gguf.journal"):
        shutil.copy2(whole.with_name(name), tmp_path)
    return tmp_path / "out.gguf"


def middle(path: Path) -> tuple[int, Tensor]:
    """A tensor far from both ends that is much larger than any buffer, and how many are before it."""
    tensors = Gguf.read(path).tensors
    return max(list(enumerate(tensors))[40:100], key=lambda entry: entry[1].nbytes)


def journal(out: Path) -> Path:
    """The journal of an output."""
    return out.with_name(f"{out.name}.journal")


def recorded(out: Path) -> set[str]:
    """The journal's lines of tensors."""
    return {line for line in journal(out).read_text().split("\n") if line[:1].isdigit()}


def kept(done: subprocess.CompletedProcess[str], out: Path, whole: Path) -> int:
    """How many tensors a run kept that succeeded, made the right bytes and left nothing else."""
    assert done.returncode == 0, done.stdout[-2000:]
    assert out.read_bytes() == whole.read_bytes()
    assert not journal(out).exists()
    return done.stdout.count(", kept, size = ")


def test_the_rest_is_made(quantize, out, whole, died):
    done = quantize(out)
    assert kept(done, out, whole) == died >= 40
    assert f"{died} tensors were kept" in done.stdout
    assert f"[{len(Gguf.read(whole).tensors):4}/" in done.stdout


def test_a_run_that_nothing_interrupts(quantize, whole, tmp_path):
    done = quantize(tmp_path / "out.gguf")
    assert kept(done, tmp_path / "out.gguf", whole) == 0
    assert "resume:" not in done.stdout


def test_killed_again_and_again(quantize, whole, tmp_path):
    out, count = tmp_path / "out.gguf", 0
    for number in range(20, 140, 30):
        count = len(recorded(out)) if number > 20 else 0
        most = Gguf.read(whole).tensors[number].data.offset + 1
        assert quantize(out, most=most).returncode == -signal.SIGXFSZ
        # the last ones may be small, and wait for the same flush
        assert count < len(recorded(out)) == number
    assert kept(quantize(out), out, whole) == 110


def test_sigkill(quantize, engine_bin, bf16, nano, whole, tmp_path):
    out = tmp_path / "out.gguf"
    command = [engine_bin("llama-quantize"), "--resume", "--imatrix", nano / "imatrix.gguf", bf16, out, "Q4_K", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # on a busy machine it may be over before it is seen
    while process.poll() is None and not (journal(out).exists() and len(recorded(out)) > 20):
        time.sleep(0.001)
    process.kill()
    process.wait()
    count = len(recorded(out)) if journal(out).exists() else 0
    assert kept(quantize(out), out, whole) == count


@pytest.mark.parametrize("at", [0, -1])
def test_a_damaged_tensor_is_made_again(quantize, out, whole, died, at):
    tensor = Gguf.read(whole).tensors[died // 2]
    with open(out, "r+b") as file:
        file.seek(tensor.data.offset + at % tensor.nbytes)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))
    done = quantize(out)
    assert kept(done, out, whole) == died - 1
    assert f"{tensor.name} is not what was written, it is made again" in done.stdout


def test_an_output_that_lost_its_end(quantize, out, whole, died):
    os.truncate(out, Gguf.read(whole).tensors[died - 5].data.offset + 1)
    assert kept(quantize(out), out, whole) == died - 5


def test_an_output_that_is_too_long(quantize, out, whole, died):
    os.truncate(out, whole.stat().st_size + 100)
    assert kept(quantize(out), out, whole) == died


# the last line may have no end, be of nothing, or lie
@pytest.mark.parametrize(("end", "fewer"), [("12 ", 0), ("999999 1 2 3\n", 0), ("\0\0\0\n", 0), ("5 0 0 0\n", 1)])
def test_a_journal_with_a_broken_end(quantize, out, whole, died, end, fewer):
    with open(journal(out), "a") as file:
        file.write(end)
    assert kept(quantize(out), out, whole) == died - fewer


@pytest.mark.parametrize(
    ("lost", "reason"), [("out.gguf", "nothing of it is there"), ("out.gguf.journal", "there is no ")]
)
def test_one_of_the_two_is_lost(quantize, out, whole, lost, reason):
    out.with_name(lost).unlink()
    done = quantize(out)
    assert f"out.gguf is made anew: {reason}" in done.stdout
    assert kept(done, out, whole) == 0


@pytest.mark.parametrize(
    "options",
    [("--tensor-type", "ffn_up_exps=q5_k"), ("--override-kv", "general.name=str:other"), ("--residual",)],
)
def test_other_options_start_anew(quantize, out, tmp_path, options):
    kind = "IQ4_A770" if "--residual" in options else "Q4_K"
    assert quantize(tmp_path / "whole.gguf", *options, kind=kind, resume=False).returncode == 0
    done = quantize(out, *options, kind=kind)
    assert "out.gguf.journal is not for this output" in done.stdout
    assert kept(done, out, tmp_path / "whole.gguf") == 0


def test_another_imatrix_starts_anew(quantize, out, nano, tmp_path):
    path = shutil.copy2(nano / "imatrix.gguf", tmp_path)
    with open(path, "r+b") as file:
        file.seek(next(t.data.offset for t in Gguf.read(path).tensors if "attn_k" in t.name and "sum" in t.name))
        file.write(bytes(4))
    assert quantize(tmp_path / "whole.gguf", "--imatrix", path, resume=False).returncode == 0
    done = quantize(out, "--imatrix", path)
    assert "out.gguf.journal is not for this imatrix" in done.stdout
    assert kept(done, out, tmp_path / "whole.gguf") == 0


def test_another_model_starts_anew(quantize, out, whole, bf16):
    times = bf16.stat()
    try:
        os.utime(bf16, ns=(times.st_atime_ns, times.st_mtime_ns - 1000))
        done = quantize(out)
    finally:
        os.utime(bf16, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "out.gguf.journal is not for this model" in done.stdout
    assert kept(done, out, whole) == 0


def test_splits_are_refused(quantize, tmp_path):
    done = quantize(tmp_path / "out.gguf", "--keep-split")
    assert done.returncode == 1
    assert "an interrupted run with split outputs cannot be resumed" in done.stdout
    assert not list(tmp_path.iterdir())


def test_without_it_a_journal_is_nothing(quantize, out, whole):
    """It is neither read nor removed, and the next run with --resume sees what was written instead."""
    assert quantize(out, kind="Q8_0", resume=False).returncode == 0
    assert journal(out).exists()
    quantize(out)
    assert out.read_bytes() == whole.read_bytes()
