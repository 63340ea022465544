"""The nano run, end to end: what it makes, how good that is, and what a change redoes."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

from phase_twin.codebook import Codec
from phase_twin.engine import BATCH, override
from phase_twin.expert_matrices import expert_tensors, matrices
from phase_twin.files import sha256_file
from phase_twin.results import MADE_BY, read_result
from prune_dual import IQ3_A770_CODEBOOK, VARIANT_PREFIX, Gguf, Twin
from rank_groups import read_imatrix
from small_run import NANO_CONFIG
from update_tables import quality_table

pytestmark = pytest.mark.nano

TEXT = "models/nex-n2-nano/evaluation.txt"


@pytest.fixture(scope="module")
def quality(nano: Path) -> dict[str, dict]:
    rows = read_result(nano / "bench/quality.json")
    return {row["label"]: row for row in rows}


def test_everything_is_there(nano):
    for name in (
        "Nex-N2-nano-twin.gguf",
        "Nex-N2-nano-9mib.gguf",
        "Nex-N2-nano-10mib.gguf",
        "Nex-N2-nano-mmproj-F16.gguf",
        "imatrix.gguf",
        "bench/quality.json",
        "bench/quality.svg",
        "bench/quality.png",
        "bench/quality/variant-0.npz",
        "bench/speed.json",
        "rank/measured.json",
        "curve.json",
        "curve.png",
        "verify.json",
        "release/SHA256SUMS",
        "release/build/llama.cpp-turbo-phase-twin.patch",
    ):
        assert (nano / name).stat().st_size > 0, name


def test_every_result_says_where_it_comes_from(nano, root):
    # not of this kind, or (layers) an input of what a cache keeps
    others = {"provenance.json", "ro-crate-metadata.json", "manifest.json", "layers.json", "upload.json"}
    files = [path for path in nano.rglob("*.json") if path.name not in others and path.parent.name != "prune"]
    engine = json.loads((root / "resources/engine/source.json").read_text())
    for path in files:
        made_by = json.loads(path.read_text())[MADE_BY]
        assert made_by["engine"]["patch_sha256"] == engine["patch_sha256"], path
        assert made_by["machine"]["cpu"], path
        assert made_by["inputs"] or "timing" in path.name, path
    twin = nano / "Nex-N2-nano-twin.gguf"
    speed = json.loads((nano / "bench/speed.json").read_text())[MADE_BY]
    assert speed["inputs"][str(twin.relative_to(root))] == sha256_file(twin)


def test_the_study_of_codebooks_encodes_version_1_as_the_engine_does(nano, root, engine_bin, tmp_path):
    path = root / "resources/models/nex-n2-nano/Nex-N2-nano-BF16.gguf"
    command = [
        engine_bin("llama-quantize"),
        "--imatrix",
        nano / "imatrix.gguf",
        path,
        tmp_path / "out.gguf",
        "IQ3_A770",
    ]
    subprocess.run(command, check=True, capture_output=True)
    encoded = {tensor.name: tensor for tensor in Gguf.read(tmp_path / "out.gguf").tensors}
    model, imatrix = Gguf.read(path), read_imatrix(nano / "imatrix.gguf")
    codec = Codec(IQ3_A770_CODEBOOK, root / "resources/engine/source", tmp_path, tmp_path / "tool.log")
    for tensor in expert_tensors(model, imatrix):
        blocks = b"".join(codec.encode(one.rows, one.columns).tobytes() for one in matrices(tensor, imatrix))
        assert blocks == encoded[tensor.name].data.read(), tensor.name


def test_layer_counts_are_those_of_the_tensors(nano):
    kv = Twin.read(nano / "Nex-N2-nano-twin.gguf").gguf.kv
    assert kv["qwen35moe.block_count"].value == 8
    assert "qwen35moe.nextn_predict_layers" not in kv  # none
    assert kv["qwen35moe.attention.recurrent_layers"].value == [True, True, True, False] * 2


def test_quality_of_both_phases(quality):
    low, high = quality["variant-0"], quality["variant-1"]
    assert low["chunks"] == high["chunks"] == 100
    assert low["tokens"] == 100 * 512
    assert low["tokens_sha256"] == high["tokens_sha256"]
    assert (low["device"], low["threads"]) == ("CPU", min(8, os.cpu_count()))
    assert low["bpw_experts"] == 3.1875
    assert high["bpw_experts"] == 4.5
    assert low["kld_mean"] <= 0.0390
    # Q4_K with error feedback; 0.0154 without
    assert abs(high["kld_mean"] - 0.0137) <= 0.0006
    assert high["top1"] >= 93.5


OURS = ("variant-0", "9mib", "10mib", "variant-1")
STOCK = ("iq3_xxs", "q3_k", "iq3_s", "iq4_xs")


def test_more_bytes_are_better(quality):
    assert set(quality) == {*OURS, *STOCK}
    ordered = sorted((quality[label] for label in OURS), key=lambda row: row["bytes"])
    assert [row["label"] for row in ordered] == list(OURS)
    klds = [row["kld_mean"] for row in ordered]
    assert klds == sorted(klds, reverse=True)


def test_pruned_files_are_plain_and_within_budget(nano):
    for mib in (9, 10):
        model = Gguf.read(nano / f"Nex-N2-nano-{mib}mib.gguf")
        assert sum(tensor.nbytes for tensor in model.tensors) <= mib * 2**20
        assert not [key for key in model.kv if key.startswith(VARIANT_PREFIX)]
        selection = json.loads((nano / f"prune/{mib}mib.json").read_text())
        kinds = {tensor.name: tensor.type_name for tensor in model.tensors}
        assert {name for name, kind in kinds.items() if kind == "Q4_K"} == set(selection["promoted"])


def test_a_budget_at_load_computes_what_the_pruned_file_does(nano, root, engine_bin, tmp_path):
    def logits(model: Path, *flags: str) -> bytes:
        out = tmp_path / "logits"
        command = [engine_bin("llama-perplexity"), "-m", model, "-f", root / TEXT, "-c", "512", "--chunks", "2"]
        subprocess.run([*command, *BATCH, *flags, "--kl-divergence-base", out], capture_output=True, check=True)
        return out.read_bytes()

    twin = nano / "Nex-N2-nano-twin.gguf"
    fitted = logits(twin, *override("budget_mb", 9))
    assert len(fitted) > 2 * 256 * 2048 * 2
    assert fitted == logits(nano / "Nex-N2-nano-9mib.gguf")
    assert fitted != logits(twin)


def test_speed_has_every_file_and_test(nano):
    rows = read_result(nano / "bench/speed.json")
    found = [(row["label"], row["test"], row["depth"]) for row in rows]
    expected = itertools.product(OURS + STOCK, ("pp256", "tg32"), (0, 512))
    assert sorted(found) == sorted(expected)
    assert all(row["t_s"] > 0 and row["stddev"] >= 0 and row["backend"] and row["device"] for row in rows)


def test_readme_shows_what_was_measured(root, quality):
    """Same rows and sizes; KLD within its errors, for another CPU rounds differently."""
    readme = (root / "README.md").read_text()
    for row in quality.values():
        cells = quality_table([row]).splitlines()[-1].split("|")
        line = next(line for line in readme.splitlines() if line.startswith(f"| {row['label']} |"))
        shown = line.split("|")
        assert shown[1:4] == cells[1:4]
        kld = float(shown[4].split("±")[0])
        assert abs(kld - row["kld_mean"]) <= 2 * row["kld_mean_err"]


def test_second_run_does_nothing(nano, snakemake):
    done = snakemake("-n", "--configfile", NANO_CONFIG)
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout
