"""The engine's other tools on files with IQ3_A770 and on twins: they work, or refuse as they do for other types."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_files import (
    BAD_IQ3_A770,
    F32,
    IQ3_A770,
    IQ3_KEYS,
    PLAIN,
    Q2_0,
    Q4_K,
    Early,
    Raw,
    early_twin,
    expert,
    filled,
    nano_variants,
    twin_keys,
    write,
)
from prune_dual import IQ3_A770_CODEBOOK, Gguf, Twin
from small_run import Run

pytestmark = pytest.mark.engine

SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@pytest.fixture
def variant0(nano, root) -> Path:
    """The nano model with its experts in IQ3_A770."""
    return root / "resources/models/nex-n2-nano/Nex-N2-nano-variant0.gguf"


def contents(path: Path) -> dict[str, tuple]:
    """What a reader finds under each tensor's name."""
    return {tensor.name: (tensor.shape, tensor.type, tensor.data.read()) for tensor in Gguf.read(path).tensors}


def keys(path: Path) -> dict[str, object]:
    """All keys but those of split files."""
    return {name: entry.value for name, entry in Gguf.read(path).kv.items() if name not in SPLIT_KEYS}


def tensor_types(path: Path) -> set[int]:
    """The type ids as they stand in the file, read without anything that translates them."""
    return {tensor.type for tensor in Gguf.read(path).tensors}


def plain_and_twin(folder: Path) -> dict[str, Path]:
    plain, _ = nano_variants(folder)
    names = [expert(layer, kind) for layer in range(2) for kind in ("gate", "up")]
    tensors = [filled("output_norm.weight", (256,), F32)]
    for name in names:
        tensors += [filled(name, (256, 3, 4), IQ3_A770), filled(f"{name}.v1", (256, 3, 4), Q4_K)]
    return {"plain": plain, "twin": write(folder / "twin.gguf", twin_keys(names, [0, 0, 1, 1]) + IQ3_KEYS, tensors)}


# llama-gguf-split


def split(run: Run, path: Path, most: int = 3) -> list[Path]:
    run("llama-gguf-split", "--split", "--split-max-tensors", most, path, path.with_suffix(""))
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))


@pytest.mark.parametrize("which", ["plain", "twin"])
def test_split_and_merge_give_the_file_again(run, tmp_path, which):
    path = plain_and_twin(tmp_path)[which]
    parts = split(run, path)
    assert len(parts) > 2
    merged = tmp_path / "merged.gguf"
    run("llama-gguf-split", "--merge", parts[0], merged)
    assert contents(merged) == contents(path)
    assert list(contents(merged)) == list(contents(path))
    assert keys(merged) == keys(path)


def test_every_split_with_the_type_carries_its_keys(run, tmp_path):
    for part in split(run, plain_and_twin(tmp_path)["plain"]):
        types = tensor_types(part)
        assert Q2_0 not in types
        if IQ3_A770 in types:
            assert keys(part)["iq3_a770.version"] == 1
            assert keys(part)["iq3_a770.codebook"] == list(IQ3_A770_CODEBOOK)


def test_a_split_twin_is_selected_from_like_the_whole(run, tmp_path):
    path = plain_and_twin(tmp_path)["twin"]
    first = split(run, path)[0]
    done = run("llama-variant-info", "--override-kv", "general.tensor_variant.promote=str:0-1", first, path)
    split_record, record = (json.loads(line) for line in done.stdout.splitlines())
    assert split_record | {"file": None} == record | {"file": None}
    assert record["promoted"] == [expert(0, "gate"), expert(0, "up")]


@pytest.mark.parametrize("case", BAD_IQ3_A770)
def test_split_refuses_another_iq3_a770(run, tmp_path, case):
    build, words = BAD_IQ3_A770[case]
    done = run("llama-gguf-split", "--split", build(tmp_path / "bad.gguf"), tmp_path / "out", code=1)
    # the engine names a wrong type by its name
    assert all(word in done.stdout for word in words if word != "type")
    assert not list(tmp_path.glob("out*"))


# gguf-dump


@pytest.mark.nano
def test_dump_of_the_tree_knows_the_type(nano, root, tmp_path):
    script = root / "resources/engine/source/gguf-py/gguf/scripts/gguf_dump.py"
    path = plain_and_twin(tmp_path)["twin"]
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "| IQ3_A770 |" in line]
    assert len(lines) == 4
    assert all("256," in line for line in lines)
    assert "iq3_a770.codebook = [-125, -73, -36, -4, 21, 49, ...]" in done.stdout


# llama-quantize


@pytest.mark.nano
def test_dry_run_shows_the_type_and_writes_nothing(run, bf16):
    before = sorted(bf16.parent.iterdir())
    done = run("llama-quantize", "--dry-run", bf16, "IQ3_A770")
    assert done.stdout.count("(iq3_a770)") == 24
    assert "BPW" in done.stdout
    assert sorted(bf16.parent.iterdir()) == before


@pytest.mark.nano
def test_requantizing_is_refused_unless_allowed(run, bf16, tmp_path):
    source, out = tmp_path / "iq3.gguf", tmp_path / "out.gguf"
    # all but the experts stay as they are: the refusal must come from the type
    others = ("attn", "ssm", "shexp", "gate_inp")
    keep = [part for other in others for part in ("--tensor-type", f"{other}=bf16")]
    keep += ["--token-embedding-type", "bf16", "--output-tensor-type", "bf16"]
    run("llama-quantize", *keep, bf16, source, "IQ3_A770")
    done = run("llama-quantize", source, out, "Q4_K", code=1)
    assert "requantizing from type iq3_a770 is disabled" in done.stdout
    run("llama-quantize", "--allow-requantize", source, out, "Q8_0")
    assert IQ3_A770 not in tensor_types(out)


@pytest.mark.nano
def test_quantize_refuses_another_iq3_a770(run, variant0, tmp_path):
    data = bytearray(variant0.read_bytes())
    at = data.index(b"iq3_a770.version") + len("iq3_a770.version") + 4
    data[at : at + 4] = (2).to_bytes(4, "little")
    (tmp_path / "other.gguf").write_bytes(data)
    done = run("llama-quantize", "--allow-requantize", tmp_path / "other.gguf", tmp_path / "out.gguf", "Q8_0", code=1)
    assert "'iq3_a770.version' is u32 2, expected u32 1" in done.stdout
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.nano
def test_a_twin_is_requantized_only_where_that_is_said(run, nano, tmp_path):
    twin, out = nano / "Nex-N2-nano-twin.gguf", tmp_path / "out.gguf"
    out.write_bytes(b"of before")
    done = run("llama-quantize", twin, out, "Q8_0", code=1)
    assert "variant 0 (iq3_a770) would be requantized to q8_0" in done.stdout
    assert out.read_bytes() == b"of before"
    variant = ("--override-kv", "general.tensor_variant.default=int:1")
    assert "variant 1 (q4_K)" in run("llama-quantize", *variant, twin, out, "Q8_0", code=1).stdout
    run("llama-quantize", "--allow-requantize", *variant, twin, out, "Q8_0")
    # what the twin's keys say is not true of it
    assert not [key for key in keys(out) if key.startswith(("iq3_a770.", "general.tensor_variant.", "phase_twin."))]
    run("llama-variant-info", out)


# llama-completion


def with_alignment_16(source: Gguf, path: Path) -> Path:
    """The same model with its data on 16 bytes, and not on 32."""
    tensors = [Raw(t.name, t.shape, t.type, data=t.data.read()) for t in source.tensors]
    there = [(name, entry.type, entry.value) for name, entry in source.kv.items()]
    for length in range(0, 32, 16):
        there_too = [("general.alignment", "u32", 16), ("test.filler", "str", "x" * length)]
        write(path, there + there_too, tensors, alignment=16)
        if Gguf.read(path).data_start % 32:
            break
    return path


@pytest.mark.nano
def test_data_that_cannot_be_mapped_is_refused(run, bf16, tmp_path):
    path = with_alignment_16(Gguf.read(bf16), tmp_path / "model.gguf")
    arguments = ("-m", path, "-p", "The", "-n", 1, "-no-cnv", "--no-warmup")
    assert "is not 32 byte aligned" in run("llama-completion", *arguments, code=1).stdout
    run("llama-completion", *arguments, "--load-mode", "none")


# the first id of the type


def early_plain(path: Path) -> Path:
    return write(path, PLAIN, [Early("a.weight", (256, 4)), Raw("b.weight", (256,), F32)])


def read_by_the_engine(run: Run, path: Path, **options: object) -> dict:
    return json.loads(run("llama-variant-info", path, **options).stdout.splitlines()[-1])


def test_a_twin_of_the_first_ones_is_read(run, tmp_path):
    path = early_twin(tmp_path / "twin.gguf")
    done = run("llama-variant-info", path)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["variant0_bytes"] == 4 * 102
    # taken as versions 1, with warnings
    assert "no key 'iq3_a770.version'" in done.stdout
    assert "general.tensor_variant.version is missing" in done.stdout


@pytest.mark.parametrize(
    "keys",
    [
        twin_keys([expert(0, "up")]),
        twin_keys([expert(0, "up")]) + IQ3_KEYS,
        twin_keys([expert(0, "up")], instead={"version": None}) + IQ3_KEYS,
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_id_42_is_q2_0_in_other_twins(run, tmp_path, keys, told):
    name = expert(0, "up")
    path = write(tmp_path / "twin.gguf", keys, [filled(name, (256, 4), Q2_0), filled(f"{name}.v1", (256, 4), Q4_K)])
    assert read_by_the_engine(run, path, legacy=told)["variant0_bytes"] == 16 * 18
    assert Twin.read(path, legacy_type_42=told).gguf.tensors[0].type == Q2_0


def test_id_42_is_q2_0_in_plain_files_unless_told(run, tmp_path):
    tensors = [filled("a.weight", (256, 4), Q2_0), Raw("b.weight", (256,), F32)]
    record = read_by_the_engine(run, write(tmp_path / "q2_0.gguf", PLAIN, tensors))
    assert record["selected_bytes"] == 16 * 18 + 4 * 256
    path = early_plain(tmp_path / "plain.gguf")
    error = read_by_the_engine(run, path, code=1)["error"]
    assert "tensor 'b.weight' has offset" in error  # Q2_0 is smaller
    assert read_by_the_engine(run, path, legacy=True)["selected_bytes"] == 4 * 102 + 4 * 256


def test_dimensions_of_0(run, tmp_path):
    path = write(tmp_path / "empty.gguf", PLAIN, [Raw("a.weight", (256, 0), F32), Raw("b.weight", (256,), F32)])
    assert read_by_the_engine(run, path)["selected_bytes"] == 4 * 256
    assert [tensor.nbytes for tensor in Gguf.read(path).tensors] == [0, 4 * 256]


@pytest.mark.parametrize("build", [early_twin, early_plain])
def test_legacy_id_is_never_written(run, tmp_path, build):
    path = build(tmp_path / "old.gguf")
    run("llama-gguf-split", "--split", "--split-max-tensors", 1, path, tmp_path / "new", legacy=build is early_plain)
    parts = sorted(tmp_path.glob("new-*.gguf"))
    assert len(parts) == 2
    for part in parts:
        # split files hold no variant keys but the first: an id 42 would show as such
        ids = tensor_types(part)
        assert Q2_0 not in ids
        if IQ3_A770 in ids:
            assert not Gguf.read(part).legacy
            assert keys(part)["iq3_a770.version"] == 1
    merged = tmp_path / "merged.gguf"
    run("llama-gguf-split", "--merge", parts[0], merged)
    assert not Gguf.read(merged).legacy
    assert IQ3_A770 in tensor_types(merged)
