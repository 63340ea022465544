"""The container reader refuses what is broken and reads what is not; the writer writes what others can read."""

import os
import struct
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf_files
from gguf_files import F32, PLAIN, Q4_K, Q6_K, Raw, filled
from prune_dual import MAX_ELEMENTS, Gguf, GgufError, Span, Tensor, encode_kv, tensor_nbytes, write_gguf

TENSORS = [filled("a.weight", (256, 3), Q4_K), filled("b.weight", (7,), F32), filled("c.weight", (256, 2, 2, 2), Q6_K)]
KEYS = [
    *PLAIN,
    ("x.int", "i32", -5),
    ("x.float", "f32", 0.5),
    ("x.strings", "[str]", ["", "é", "three"]),
    ("x.numbers", "[i8]", [-1, 2]),
    ("x.none", "[str]", []),
    ("x.long", "u64", 1 << 40),
]


def test_reads_keys_and_tensors_as_written(tmp_path):
    model = Gguf.read(gguf_files.write(tmp_path / "a.gguf", KEYS, TENSORS))
    assert [(name, kv.type, kv.value) for name, kv in model.kv.items()] == KEYS
    assert [(t.name, t.shape, t.type, t.data.read()) for t in model.tensors] == [
        (t.name, t.shape, t.type, t.data) for t in TENSORS
    ]
    assert model.version == 3
    assert model.tensors[0].type_name == "Q4_K"
    assert model.tensors[2].n_elements == 2048


def test_value_offset_is_where_a_number_can_be_replaced(tmp_path):
    path = gguf_files.write(tmp_path / "a.gguf", [*PLAIN, ("x.blocks", "u32", 41)], [])
    with open(path, "r+b") as file:
        file.seek(Gguf.read(path).kv["x.blocks"].value_offset)
        file.write((40).to_bytes(4, "little"))
    assert Gguf.read(path).kv["x.blocks"].value == 40


def test_reads_what_the_stock_writer_writes(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen35moe")
    writer.add_custom_alignment(64)
    writer.add_array("x.strings", ["a", "bc"])
    for tensor in TENSORS:
        block, size = gguf.GGML_QUANT_SIZES[tensor.type]
        rows = (*reversed(tensor.shape[1:]), tensor.shape[0] // block * size)
        data = np.frombuffer(tensor.data, "u1").reshape(rows)
        writer.add_tensor(tensor.name, data, raw_dtype=gguf.GGMLQuantizationType(tensor.type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = Gguf.read(tmp_path / "a.gguf")
    assert model.alignment == 64
    assert model.get("x.strings", "[str]") == ["a", "bc"]
    assert [(t.name, t.shape, t.type, t.data.read()) for t in model.tensors] == [
        (t.name, t.shape, t.type, t.data) for t in TENSORS
    ]


@pytest.mark.parametrize("alignment", [1, 8, 16, 32, 64, 4096])
def test_stock_reader_reads_what_we_write(tmp_path, alignment):
    source = Gguf.read(gguf_files.write(tmp_path / "a.gguf", KEYS, TENSORS))
    kv = [*source.kv.values(), encode_kv("general.alignment", "u32", alignment), encode_kv("x.new", "[u32]", [7, 8])]
    size = write_gguf(tmp_path / "b.gguf", kv, source.tensors, alignment=alignment)
    assert (tmp_path / "b.gguf").stat().st_size == size
    ours = Gguf.read(tmp_path / "b.gguf")
    assert [(name, kv.value) for name, kv in ours.kv.items()][:-2] == [(name, value) for name, _, value in KEYS]
    stock = gguf.GGUFReader(tmp_path / "b.gguf")
    assert [(t.name, t.data.tobytes()) for t in stock.tensors] == [(t.name, t.data) for t in TENSORS]
    assert list(stock.fields["x.new"].contents()) == [7, 8]
    assert ours.alignment == stock.alignment == max(32, alignment)


def test_an_alignment_is_told_where_the_keys_do_not(tmp_path):
    source = Gguf.read(gguf_files.write(tmp_path / "a.gguf", PLAIN, TENSORS))
    write_gguf(tmp_path / "b.gguf", source.kv.values(), source.tensors, alignment=64)
    assert Gguf.read(tmp_path / "b.gguf").get("general.alignment", "u32") == 64


def test_every_value_type_survives_encoding():
    for kind, value in [("u8", 255), ("i16", -3), ("bool", True), ("f64", 0.1), ("i64", -(1 << 60)), ("str", "né")]:
        assert encode_kv("k", kind, value).value == value
        assert encode_kv("k", f"[{kind}]", [value, value]).value == [value, value]


RAW_ARRAY = struct.pack("<II", 9, 8)
BROKEN = {
    "not a GGUF": ({"keys": []}, b"GGML", "not a GGUF"),
    "big endian": ({"version": 3 << 24}, None, "version"),
    "version 1": ({"version": 1}, None, "version 1"),
    "more keys than there are": ({"n_keys": 1 << 62}, None, "past the end"),
    "more tensors than there are": ({"n_tensors": 1 << 62}, None, "past the end"),
    "key twice": ({"keys": [PLAIN[0], PLAIN[0]]}, None, "general.architecture"),
    "key of unknown type": ({"keys": [("x", "raw", struct.pack("<I", 13))]}, None, "'x'"),
    "nested array": ({"keys": [("x", "raw", struct.pack("<IIQ", 9, 9, 1))]}, None, "'x'"),
    "array of unknown type": ({"keys": [("x", "raw", struct.pack("<IIQ", 9, 77, 1))]}, None, "'x'"),
    "hostile array": ({"keys": [("x", "raw", RAW_ARRAY + struct.pack("<Q", 1 << 63))]}, None, "'x'"),
    "array past the end": ({"keys": [("x", "raw", struct.pack("<IIQ", 9, 10, MAX_ELEMENTS))]}, None, "'x'"),
    "hostile string": ({"keys": [("x", "raw", struct.pack("<IQ", 8, 1 << 63))]}, None, "'x'"),
    "key not UTF-8": ({"keys": [(b"\xff", "u32", 1)]}, None, "UTF-8"),
    "key without a name": ({"keys": [("", "u32", 1)]}, None, "0 bytes"),
    "alignment 0": ({"keys": [("general.alignment", "u32", 0)]}, None, "general.alignment"),
    "alignment 48": ({"keys": [("general.alignment", "u32", 48)]}, None, "general.alignment"),
    "alignment of the wrong type": ({"keys": [("general.alignment", "u64", 32)]}, None, "general.alignment"),
    "tensor name not UTF-8": ({"tensors": [Raw(b"\xff", (4,))]}, None, "UTF-8"),
    "tensor name too long": ({"tensors": [Raw("x" * 64, (4,))]}, None, "64 bytes"),
    "no dimensions": ({"tensors": [Raw("x", ())]}, None, "'x'"),
    "five dimensions": ({"tensors": [Raw("x", (4, 1, 1, 1, 1))]}, None, "'x'"),
    "dimensions overflow": ({"tensors": [Raw("x", (1 << 40, 1 << 40))]}, None, "'x'"),
    "half a block": ({"tensors": [Raw("x", (384,), Q4_K)]}, None, "'x'"),
    "name twice": ({"tensors": [Raw("x", (4,)), Raw("x", (4,))]}, None, "'x'"),
    "misaligned": ({"tensors": [Raw("x", (4,)), Raw("y", (4,), offset=16)]}, None, "'y'"),
    "overlap": ({"tensors": [Raw("x", (4,)), Raw("y", (4,), offset=0)]}, None, "'y'"),
    "offset overflows": ({"tensors": [Raw("x", (4,), offset=(1 << 64) - 32)]}, None, "'x'"),
    "data past the end": ({"cut": 33}, None, "past the end"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused_in_one_line(tmp_path, case):
    layout, magic, word = BROKEN[case]
    layout = {"keys": PLAIN, "tensors": [Raw("x", (4,))], **layout}
    path = gguf_files.write(tmp_path / "bad.gguf", layout.pop("keys"), layout.pop("tensors"), **layout)
    if magic:
        path.write_bytes(magic + path.read_bytes()[4:])
    with pytest.raises(GgufError) as error:
        Gguf.read(path)
    assert str(path) in str(error.value)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_type_is_named(tmp_path):
    path = gguf_files.write(tmp_path / "a.gguf", PLAIN, [Raw("x", (4,))])
    path.write_bytes(path.read_bytes().replace(struct.pack("<IQIQ", 1, 4, 0, 0), struct.pack("<IQIQ", 1, 4, 773, 0)))
    with pytest.raises(GgufError, match=r"'x'.*773"):
        Gguf.read(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(GgufError, match=str(path)):
            Gguf.read(path)


def test_every_truncation_is_refused(tmp_path):
    whole = gguf_files.write(tmp_path / "a.gguf", KEYS, [TENSORS[0]]).read_bytes()
    end = Gguf.read(tmp_path / "a.gguf").tensors[0].data
    for length in range(end.offset + end.nbytes):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(GgufError):
            Gguf.read(tmp_path / "cut.gguf")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_head_is_refused_or_read_but_never_crashes(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(gguf_files.write(folder / "whole.gguf", KEYS, [TENSORS[1]]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        width = data.draw(st.sampled_from([1, 4, 8]))
        whole[at : at + width] = data.draw(st.binary(min_size=width, max_size=width))
    (folder / "damaged.gguf").write_bytes(whole)
    try:
        model = Gguf.read(folder / "damaged.gguf")
        for name, entry in model.kv.items():
            assert model.get(name, entry.type) is not None
    except GgufError as error:
        assert "damaged.gguf" in str(error)


def test_get_checks_the_type(tmp_path):
    model = Gguf.read(gguf_files.write(tmp_path / "a.gguf", KEYS, []))
    assert model.get("x.missing", "u32", 3) == 3
    with pytest.raises(GgufError, match=r"x\.int.*i32.*u32"):
        model.get("x.int", "u32")


def test_sizes_of_types():
    assert tensor_nbytes((2048, 512, 256), gguf_files.IQ3_A770) == 106_954_752
    assert tensor_nbytes((2048, 512, 256), gguf_files.IQ3_A770_R) == 41_943_040
    assert tensor_nbytes((2048, 512, 256), gguf_files.IQ4_A770) == 148_897_792
    assert tensor_nbytes((2048, 512, 256), Q4_K) == 150_994_944
    with pytest.raises(ValueError, match="no multiple"):
        tensor_nbytes((100,), gguf_files.IQ3_A770)


# writing


@pytest.fixture
def source(tmp_path) -> Gguf:
    return Gguf.read(gguf_files.write(tmp_path / "a.gguf", KEYS, TENSORS))


def test_writing_by_plain_reads_gives_the_same_file(source, tmp_path, monkeypatch):
    write_gguf(tmp_path / "kernel.gguf", source.kv.values(), source.tensors)

    def refuse(*_args, **_kwargs):
        raise OSError(18, "cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    write_gguf(tmp_path / "plain.gguf", source.kv.values(), source.tensors)
    assert (tmp_path / "kernel.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
    assert (tmp_path / "kernel.gguf").read_bytes() == source.path.read_bytes()


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link"])
def test_input_is_never_replaced(source, tmp_path, link):
    before, out = source.path.read_bytes(), tmp_path / "out.gguf"
    if link == "itself":
        out = source.path
    elif link == "symlink":
        out.symlink_to(source.path)
    else:
        out.hardlink_to(source.path)
    with pytest.raises(GgufError, match="is the input"):
        write_gguf(out, source.kv.values(), source.tensors, force=True)
    assert source.path.read_bytes() == before


def test_existing_output_needs_force(source, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with pytest.raises(GgufError, match="--force"):
        write_gguf(out, source.kv.values(), source.tensors)
    assert out.read_text() == "mine"
    write_gguf(out, source.kv.values(), source.tensors, force=True)
    assert out.read_bytes() == source.path.read_bytes()


def test_full_disk_is_told_before_writing(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=100))
    with pytest.raises(GgufError, match=r"needs 0\.00 MiB.*0\.00 MiB free"):
        write_gguf(tmp_path / "out.gguf", source.kv.values(), source.tensors)
    assert sorted(os.listdir(tmp_path)) == ["a.gguf"]


def test_missing_folder_is_told(source, tmp_path):
    with pytest.raises(GgufError, match="does not exist"):
        write_gguf(tmp_path / "no" / "out.gguf", source.kv.values(), source.tensors)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_failure_midway_leaves_nothing_behind(source, tmp_path, failure):
    def fail(_done: int, _total: int) -> None:
        assert len(os.listdir(tmp_path)) == 2, "the partial file is there"
        raise failure

    with pytest.raises((KeyboardInterrupt, GgufError)) as error:
        write_gguf(tmp_path / "out.gguf", source.kv.values(), source.tensors, progress=fail)
    assert sorted(os.listdir(tmp_path)) == ["a.gguf"]
    assert isinstance(error.value, KeyboardInterrupt) or "No space left" in str(error.value)


def test_source_that_shrinks_is_told(source, tmp_path):
    beyond = Tensor("x", (4,), F32, Span(source.path, source.path.stat().st_size - 8, 16))
    with pytest.raises(GgufError, match="became shorter"):
        write_gguf(tmp_path / "out.gguf", [], [beyond])
    assert sorted(os.listdir(tmp_path)) == ["a.gguf"]


def test_progress_ends_at_the_data_end(source, tmp_path):
    seen: list[tuple[int, int]] = []
    size = write_gguf(tmp_path / "b.gguf", [], source.tensors, progress=lambda *at: seen.append(at))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {size}
    assert size - seen[-1][0] < 32


def test_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gguf_files.write(Path("a.gguf"), PLAIN, TENSORS)
    model = Gguf.read("a.gguf")
    write_gguf("b.gguf", model.kv.values(), model.tensors)
    assert Path("b.gguf").read_bytes() == Path("a.gguf").read_bytes()
