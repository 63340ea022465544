"""Covariances: what llama-imatrix collects, and what llama-quantize makes of them or refuses."""

from pathlib import Path

import numpy as np
import pytest

from prune_dual import Gguf
from rank_groups import read_imatrix

pytestmark = pytest.mark.engine


@pytest.fixture
def covariance(nano, root) -> Path:
    return root / "resources/models/nex-n2-nano/covariance.gguf"


@pytest.fixture
def imatrix(nano) -> Path:
    return nano / "imatrix.gguf"


def diagonals(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight -> sums of squares [matrices, columns], counts [matrices]; checks the packed triangles on the way."""
    tensors = {tensor.name: tensor for tensor in Gguf.read(path).tensors}
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(".in_cov"):
            continue
        weight = name.removesuffix(".in_cov")
        size, n_mat = (*tensor.shape, 1)[:2]
        packed = np.frombuffer(tensor.data.read(), np.float32).reshape(n_mat, size)
        columns = int(np.sqrt(2 * size))
        upper, full = np.triu_indices(columns), np.zeros((columns, columns))
        full[upper] = packed[0]
        full += np.triu(full, 1).T
        assert np.linalg.eigvalsh(full).min() > -1e-4 * np.trace(full) / columns, "a sum of x x^T"
        counts = np.frombuffer(tensors[f"{weight}.counts"].data.read(), np.float32)
        found[weight] = packed[:, upper[0] == upper[1]], counts
    return found


def test_diagonals_are_the_sums_of_the_imatrix(covariance, imatrix):
    found, expected = diagonals(covariance), read_imatrix(imatrix)
    assert len(found) == 16
    for weight, (sums, counts) in found.items():
        squares, tokens = expected[weight]
        if "down" in weight:
            np.testing.assert_array_equal(counts, tokens.ravel())
            np.testing.assert_allclose(sums, squares, rtol=1e-4)
        else:
            # one for all experts, of which each token takes two
            assert 2 * counts.sum() == tokens.sum()
            np.testing.assert_allclose(2 * sums.sum(), squares.sum(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["IQ3_A770", "Q4_K"])
def test_the_bytes_do_not_depend_on_threads(run, bf16, imatrix, covariance, tmp_path, kind):
    command = ("llama-quantize", "--imatrix", imatrix, "--covariance", covariance, "--tensor-type", f"_exps={kind}")
    files = []
    for threads in (1, 3):
        files.append(tmp_path / f"{threads}.gguf")
        done = run(*command, bf16, files[-1], "Q6_K", threads)
        # of the rest nothing is collected
        assert done.stdout.count("with error feedback") == 24
        assert "no covariances" not in done.stdout
    assert files[0].read_bytes() == files[1].read_bytes()


def test_they_need_an_imatrix(run, bf16, covariance, tmp_path):
    done = run("llama-quantize", "--covariance", covariance, bf16, tmp_path / "out.gguf", "IQ3_A770", code=1)
    assert "covariances need an importance matrix" in done.stdout


def test_files_that_do_not_fit_are_refused(run, bf16, imatrix, covariance, tmp_path):
    other = tmp_path / "other.gguf"
    for content, message in (
        (covariance.read_bytes()[:5000], "past the end of the file"),
        (covariance.read_bytes()[:-32], "past the end of the file"),
        (b"GGUF", "cannot be read as GGUF"),
        (imatrix.read_bytes(), "no file of covariances"),
    ):
        other.write_bytes(content)
        command = (
            "llama-quantize",
            "--imatrix",
            imatrix,
            "--covariance",
            other,
            bf16,
            tmp_path / "out.gguf",
            "IQ3_A770",
        )
        done = run(*command, code=1)
        assert message in done.stdout, done.stdout[-500:]


def test_they_are_not_merged(run, bf16, imatrix, root, tmp_path):
    text = root / "models/nex-n2-nano/calibration.txt"
    command = ("llama-imatrix", "-m", bf16, "-f", text, "-o", tmp_path / "out.gguf", "--in-file", imatrix)
    done = run(*command, "--covariance", tmp_path / "cov.gguf", code=1)
    assert "--covariance cannot be combined with --in-file" in done.stdout
    assert not (tmp_path / "cov.gguf").exists()
