"""Importance matrices: files with and without the plain sums that newer engines write beside those of squares."""

import gguf
import numpy as np
import pytest

from add_sums import add_files
from phase_twin.errors import UserError
from rank_groups import read_imatrix
from rank_layers import text_taken

NAME = "blk.0.ffn_gate_exps.weight"
SQUARES = np.array([[1, 4, 9, 16], [25, 36, 49, 64]], np.float32)
SUMS = np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.float32)
COUNTS = np.array([[3], [5]], np.float32)


def write(path, times: int, sums: bool) -> str:
    """Write a file of two experts, as llama-imatrix does after so many chunks."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", times)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor(f"{NAME}.in_sum2", times * SQUARES)
    if sums:
        writer.add_tensor(f"{NAME}.in_sum", times * SUMS)
    writer.add_tensor(f"{NAME}.counts", times * COUNTS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.mark.parametrize("sums", [False, True])
def test_squares_and_counts_are_read(tmp_path, sums):
    found = read_imatrix(write(tmp_path / "imatrix.gguf", 2, sums))
    assert found.keys() == {NAME}
    squares, counts = found[NAME]
    assert np.array_equal(squares, 2 * SQUARES)
    assert np.array_equal(counts, [6, 10])


@pytest.mark.parametrize("sums", [False, True])
def test_parts_add_up(tmp_path, sums):
    parts = [write(tmp_path / f"part{times}.gguf", times, sums) for times in (1, 2)]
    add_files(parts, str(tmp_path / "sum.gguf"))
    whole = gguf.GGUFReader(write(tmp_path / "whole.gguf", 3, sums))
    reader = gguf.GGUFReader(tmp_path / "sum.gguf")
    assert reader.fields["imatrix.chunk_count"].contents() == 3
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == len(whole.tensors) == 2 + sums
    for tensor in whole.tensors:
        assert np.array_equal(tensors[tensor.name], tensor.data), tensor.name


def test_parts_of_different_engines_are_not_added(tmp_path):
    parts = [write(tmp_path / f"part{sums}.gguf", 1, sums) for sums in (False, True)]
    with pytest.raises(
        UserError, match=r"partTrue\.gguf: has other tensors than .*partFalse\.gguf, such as .*\.in_sum"
    ):
        add_files(parts, str(tmp_path / "sum.gguf"))


def test_an_imatrix_says_how_much_of_the_text_went_in(tmp_path):
    assert text_taken(write(tmp_path / "imatrix.gguf", 7, False)) == {"chunks": 7, "n_ctx": 512}
