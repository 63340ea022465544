"""Work that is shared out over a cluster gives what one job gives."""

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

import add_sums
from phase_twin.errors import UserError
from phase_twin.results import read_result
from small_run import NANO_CONFIG

pytestmark = pytest.mark.nano

IMATRIX, COVARIANCE = "results/nex-n2-nano/imatrix.gguf", "resources/models/nex-n2-nano/covariance.gguf"
CHUNKS = 14  # batches of 4, 4, 4 and 2
ROWS = ("bench/quality/variant-1.json", "bench/orders/measured-40.json")


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return keys, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


@pytest.fixture(scope="module")
def runs(nano, root, checkout, snakemake, tmp_path_factory) -> dict[int, Path]:
    """The imatrix in one part and in three, each in a folder of its own."""
    folders = {}
    for parts in (1, 3):
        folder = checkout(tmp_path_factory.mktemp("scatter") / "project")
        (folder / "resources/models/nex-n2-nano").mkdir(parents=True)
        shutil.copy2(
            root / "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf", folder / "resources/models/nex-n2-nano"
        )
        (folder / "results/nex-n2-nano").mkdir(parents=True)
        shutil.copy2(nano / "Nex-N2-nano-mmproj-F16.gguf", folder / "results/nex-n2-nano")
        (folder / "parts.yaml").write_text(f"imatrix: {{chunks: {CHUNKS}, parts: {parts}}}\n")
        done = snakemake("--configfile", NANO_CONFIG, "parts.yaml", "--", IMATRIX, COVARIANCE, cwd=folder)
        assert done.returncode == 0, done.stdout[-3000:]
        assert done.stdout.count("Collect part") == (parts if parts > 1 else 0)
        folders[parts] = folder
    return folders


@pytest.mark.parametrize("name", [IMATRIX, COVARIANCE])
def test_parts_add_up_to_one_run(runs, name):
    keys, whole = read(runs[1] / name)
    keys_of_parts, added = read(runs[3] / name)
    assert keys_of_parts == keys
    assert list(added) == list(whole)
    for tensor, values in whole.items():
        if tensor.endswith(".counts"):
            assert np.array_equal(added[tensor], values), tensor
        else:
            # against the largest of the tensor: covariances near zero are differences of large sums
            assert np.abs(added[tensor] - values).max() <= 1e-4 * np.abs(values).max(), tensor


def test_parts_of_other_models_are_refused(runs, tmp_path):
    parts = [str(runs[1] / IMATRIX), str(runs[1] / COVARIANCE)]
    with pytest.raises(UserError, match=r"covariance\.gguf: has other tensors than .*imatrix\.gguf, such as"):
        add_sums.add_files(parts, str(tmp_path / "sum.gguf"))
    assert not list(tmp_path.iterdir())


def test_rows_measured_in_parts_are_those_of_one_run(nano, root, checkout, snakemake, tmp_path):
    folder = checkout(tmp_path / "project")
    # with what Snakemake knows of them, or a new time of a source would have all made again
    for made in (".snakemake/metadata", "resources/models/nex-n2-nano", "results/nex-n2-nano"):
        shutil.copytree(root / made, folder / made, ignore=shutil.ignore_patterns("bench"))
    rows = [f"results/nex-n2-nano/{row}" for row in ROWS]
    measured = []
    for parts in (1, 3):
        (folder / "parts.yaml").write_text(f"bench: {{quality: {{chunks: {CHUNKS}, parts: {parts}}}}}\n")
        done = snakemake("--configfile", NANO_CONFIG, "parts.yaml", "--", *rows, cwd=folder)
        assert done.returncode == 0, done.stdout[-3000:]
        assert done.stdout.count(", part ") == (3 * len(rows) if parts > 1 else 0)
        measured.append([read_result(folder / row) for row in rows])
    assert measured[0] == measured[1]
    assert measured[0][0]["chunks"] == CHUNKS
    assert not list(folder.rglob("*.kldpart"))
