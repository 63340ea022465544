"""KL divergence: what llama-perplexity saves of ranges of chunks adds up, and a model is no different from itself."""

import struct
from pathlib import Path

import numpy as np
import pytest

from measure_quality import parse_summary
from phase_twin.positions import HEAD, Positions
from phase_twin.quality import describe
from write_reference_logits import logits_nbytes

pytestmark = pytest.mark.engine

N_CTX, N_VOCAB, CHUNKS = 128, 2048, 6
RANGES = [(0, 2), (2, 2), (4, 2)]  # whole batches, of two chunks
FLAGS = ("-c", N_CTX, "-b", 2 * N_CTX, "-ub", N_CTX)


@pytest.fixture(scope="module")
def model(nano, root) -> Path:
    return root / "resources/models/nex-n2-nano/Nex-N2-nano-variant0.gguf"


@pytest.fixture(scope="module")
def write_logits(run, nano, root):
    """Write the BF16 model's logits over some chunks of the text."""

    def write(path: Path, *chunks: object) -> bytes:
        bf16 = root / "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf"
        text = root / "models/nex-n2-nano/evaluation.txt"
        run("llama-perplexity", "-m", bf16, "-f", text, *FLAGS, *chunks, "--kl-divergence-base", path)
        return path.read_bytes()

    return write


@pytest.fixture(scope="module")
def logits(write_logits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("logits") / "all.kld"
    write_logits(path, "--chunks", CHUNKS)
    return path


@pytest.fixture(scope="module")
def compare(run, model, logits):
    """Compare the model with the logits."""

    def start(*arguments: object, code: int = 0) -> str:
        command = ["llama-perplexity", "-m", model, *FLAGS, "--kl-divergence", "--kl-divergence-base", logits]
        return run(*command, *arguments, code=code).stdout

    return start


@pytest.fixture(scope="module")
def parts(compare, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / str(first) for first, _ in RANGES]
    for path, (first, count) in zip(paths, RANGES, strict=True):
        compare("--from-chunk", first, "--chunks", count, "-o", path)
    return paths


def merge(run, *parts: Path, code: int = 0) -> str:
    files = [argument for part in parts for argument in ("--in-file", part)]
    return run("llama-perplexity", "-m", "no model is read", "--kl-divergence", *files, code=code).stdout


def summary(output: str) -> list[str]:
    lines = [line for line in output[output.index("====== Perplexity") :].splitlines() if line]
    return lines[: 1 + next(number for number, line in enumerate(lines) if line.startswith("Same top p"))]


def test_parts_print_what_one_run_prints(run, compare, parts):
    whole = summary(compare())
    assert len(whole) > 30
    assert summary(merge(run, *parts)) == whole
    assert summary(merge(run, *parts[:2])) == summary(compare("--chunks", 4))


def test_threads_change_no_value(compare, tmp_path):
    """Which order is measured does not depend on the machine's cores.

    The head's sums are added up by threads as they come, and are not read where values by position are.
    """
    one, more = (tmp_path / str(count) for count in (1, 3))
    for path in (one, more):
        compare("--chunks", 2, "-t", path.name, "-o", path)
    assert one.read_bytes()[HEAD:] == more.read_bytes()[HEAD:]


def test_logits_of_a_range_are_those_of_the_whole(write_logits, logits, tmp_path):
    whole, cut = logits.read_bytes(), write_logits(tmp_path / "cut.kld", "--from-chunk", 2, "--chunks", 2)
    assert struct.unpack_from("<III", cut, 8) == (N_CTX, N_VOCAB, 2)
    tokens, values = 4 * N_CTX, 2 * (N_VOCAB + 4) * (N_CTX // 2 - 1)
    assert cut[20 : 20 + 2 * tokens] == whole[20 + 2 * tokens : 20 + 4 * tokens]
    start = 20 + CHUNKS * tokens
    assert cut[20 + 2 * tokens : 20 + 2 * tokens + 2 * values] == whole[start + 2 * values : start + 4 * values]
    # what is exact of each prediction stands behind
    exact = 8 * (N_CTX // 2 - 1)
    assert cut[20 + 2 * tokens + 2 * values :][:8] == whole[start + CHUNKS * values :][:8] == b"_exact__"
    assert cut[-2 * exact :] == whole[-4 * exact : -2 * exact]


def test_logits_are_as_long_as_their_head_says(logits):
    assert logits.stat().st_size == logits_nbytes(logits)


@pytest.fixture(scope="module")
def itself(compare, root, tmp_path_factory) -> tuple[str, Path]:
    """The reference model against its own logits: what is printed, and what is kept of each position."""
    path = tmp_path_factory.mktemp("itself") / "part"
    bf16 = root / "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf"
    return compare("-m", bf16, "-o", path), path


def test_a_model_against_itself(itself):
    printed, path = itself
    for row in (parse_summary(printed), describe(Positions.read_parts([path], N_CTX, None))):
        assert abs(row["kld_mean"]) <= 1e-6
        assert row["top1"] == pytest.approx(100, abs=1e-6)
        assert row["ppl_ratio"] == pytest.approx(1, abs=1e-6)


def test_the_likelihood_of_the_reference_is_not_clipped(itself, logits):
    positions = Positions.read_parts([itself[1]], N_CTX, None)
    exact = np.frombuffer(logits.read_bytes()[-8 * positions.nll.size :], "<f4,<i4")
    assert np.array_equal(positions.nll_base.ravel(), exact["f0"])
    assert np.array_equal(positions.nll, positions.nll_base)


def test_logits_of_other_versions_are_read(compare, logits, tmp_path):
    """They end where the exact predictions begin."""
    old = tmp_path / "old.kld"
    data = logits.read_bytes()
    old.write_bytes(data[: data.index(b"_exact__", len(data) - 8 - 8 * CHUNKS * (N_CTX // 2 - 1))])
    told = compare("--kl-divergence-base", old)
    assert "has no exact predictions" in told
    new, before = parse_summary(compare()), parse_summary(told)
    assert before["kld_mean"] == new["kld_mean"]
    assert before["ppl_ratio"] >= new["ppl_ratio"]


def test_what_is_kept_is_what_is_printed(compare, tmp_path):
    printed = parse_summary(compare("-o", tmp_path / "part"))
    row = describe(Positions.read_parts([tmp_path / "part"], N_CTX, None))
    assert row["kld_mean"] == pytest.approx(printed["kld_mean"], abs=1e-6)
    assert row["kld_p999"] == pytest.approx(printed["kld_p999"], abs=1e-5)
    assert row["top1"] == pytest.approx(printed["top1"], abs=1e-3)
    assert row["ppl_ratio"] == pytest.approx(printed["ppl_ratio"], abs=1e-6)


def test_a_cut_part_is_refused(run, parts, tmp_path):
    cut = tmp_path / "cut"
    for data in (b"", parts[1].read_bytes()[:-1], b"other" + parts[1].read_bytes()[5:]):
        cut.write_bytes(data)
        assert f"{cut} is not a complete part of a KL divergence" in merge(run, parts[0], cut, code=1)


def test_a_part_that_cannot_be_written_is_an_error(compare):
    assert "failed writing /dev/full" in compare("--chunks", 2, "-o", "/dev/full", code=1)


def test_a_chunk_that_does_not_exist_is_refused(compare, logits):
    told = compare("--from-chunk", CHUNKS, code=1)
    assert f"there is no chunk {CHUNKS} in {logits}, it has {CHUNKS}" in told
