"""The decoder of IQ4_A770: by hand, from its planes, and against values that were computed weight by weight."""

import numpy as np
import pytest

from gguf_files import TABLES
from phase_twin import iq3_a770
from phase_twin.iq4_a770 import decode, decode_planes, unpack_plane


def test_the_base_is_a_block_of_iq3_a770_and_the_plane_refines_it():
    data = np.zeros((1, 142), np.uint8)
    data[0, 100:102] = [0x00, 0x3C]  # d = 1
    data[0, 96:100] = 0x99  # all scales 1
    data[0, 5] = 1 << 3  # code 4 of weight 3 * 32 + 5
    data[0, 102 + 3] = 2 << 0  # table 2 of the weights 96 to 103
    data[0, 102 + 7] = 3 << 6  # table 3 of the weights 248 to 255
    data[0, 110 + 5] = 1 << 3  # residual bit of weight 3 * 32 + 5
    data[0, 110 + 31] = 1 << 7  # and of weight 255
    expected = np.full(256, TABLES[0][0] * 1.25, np.float32)
    expected[96:104] = TABLES[2][0] * 1.25
    expected[248:256] = TABLES[3][0] * 1.25
    expected[101] = TABLES[2][2 * 4 + 1] * 1.25
    expected[255] = TABLES[3][1] * 1.25
    assert np.array_equal(decode(data)[0], expected)
    residual, table = unpack_plane(data[:, 102:])
    assert np.array_equal(np.flatnonzero(residual[0]), [101, 255])
    assert np.array_equal(np.flatnonzero(table[0]), [*range(96, 104), *range(248, 256)])


@pytest.mark.parametrize("shape", [(1, 102), (142,), (2, 144)])
def test_wrong_arrays_are_refused(shape):
    with pytest.raises(ValueError, match="142"):
        decode(np.zeros(shape, np.uint8))


def test_golden_blocks(root):
    # 40 random blocks, some with scales all -8, 0 or 7, or with d zero, subnormal or the largest half, of either sign;
    # the values are d * scale * T * 1.25 in this order, each product exact
    blocks = np.fromfile(root / "tests/data/iq4_a770.blocks", np.uint8).reshape(-1, 142)
    values = np.fromfile(root / "tests/data/iq4_a770.f32", "<f4").reshape(-1, 256)
    assert len(blocks) == len(values) == 40
    assert np.array_equal(decode(blocks).view(np.uint32), values.view(np.uint32))  # bits: the sign of zero counts
    assert np.array_equal(decode_planes(blocks[:, :102], blocks[:, 102:]), values)


def test_refining_moves_no_weight_far(root):
    blocks = np.fromfile(root / "tests/data/iq4_a770.blocks", np.uint8).reshape(-1, 142)
    coarse, fine = iq3_a770.decode(blocks[:, :102]), decode(blocks)
    largest = np.abs(coarse).max(axis=1, keepdims=True)
    assert (np.abs(fine - coarse) <= 0.3 * largest).all()
