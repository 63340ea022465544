"""The independent decoder of IQ3_A770: by hand, and against what the engine's C code made of the same blocks."""

import numpy as np
import pytest

from phase_twin.iq3_a770 import decode
from prune_dual import IQ3_A770_CODEBOOK


def block(codes: np.ndarray, scales: np.ndarray, d: float) -> np.ndarray:
    """Pack 256 codes (0..7) and eight scales (-8..7), weight by weight as the definition says."""
    data = np.zeros(102, np.uint8)
    for index, code in enumerate(codes):
        half, byte, pair = index // 128, index % 32, (index % 128) // 32
        data[32 + 32 * half + byte] |= (int(code) & 3) << (2 * pair)
        data[byte] |= (int(code) >> 2) << (index // 32)
    for index, scale in enumerate(scales):
        data[96 + index // 2] |= (int(scale) + 8) << (4 * (index % 2))
    data[100:] = np.array([d], "<f2").view(np.uint8)
    return data


def test_a_block_of_zero_bytes():
    # code 0 with scale -8, times d = 0; the sign of zero is that of the product
    assert np.array_equal(decode(np.zeros((1, 102), np.uint8)), np.zeros((1, 256), np.float32))


def test_each_field_lands_where_the_definition_says():
    codes, scales = np.arange(256) % 8, np.arange(-8, 8, 2)
    values = decode(block(codes, scales, 0.5)[None])[0]
    table = np.array(IQ3_A770_CODEBOOK, np.float32)
    assert values.dtype == np.float32
    assert np.array_equal(values, 0.5 * scales.repeat(32) * table[codes])


def test_single_bits_by_hand():
    data = np.zeros((1, 102), np.uint8)
    data[0, 100:] = [0x00, 0x3C]  # d = 1
    data[0, 96:100] = 0x99  # all scales 1
    data[0, 5] = 1 << 3  # high bit of weight 3 * 32 + 5
    data[0, 32 + 32 + 7] = 2 << 4  # low bits 2 of weight 128 + 2 * 32 + 7
    expected = np.full(256, -125.0, np.float32)
    expected[3 * 32 + 5] = 21
    expected[128 + 64 + 7] = -36
    assert np.array_equal(decode(data)[0], expected)


def test_random_blocks_round_trip_through_the_packing():
    random = np.random.default_rng(770)
    codes, scales = random.integers(0, 8, (50, 256)), random.integers(-8, 8, (50, 8))
    d = random.normal(size=50).astype(np.float16)
    blocks = np.stack([block(*row) for row in zip(codes, scales, d, strict=True)])
    exact = d.astype(np.float64)[:, None] * scales.repeat(32, 1) * np.array(IQ3_A770_CODEBOOK)[codes]
    assert np.array_equal(decode(blocks).astype(np.float64), exact)


def test_smallest_and_largest_half_stay_exact():
    for d in (np.float16(6e-8), np.finfo(np.float16).max, -np.finfo(np.float16).max):
        values = decode(block(np.full(256, 7), np.full(8, -8), d)[None])[0].astype(np.float64)
        assert np.array_equal(values, np.full(256, float(d) * -8 * 127))


@pytest.mark.parametrize("blocks", [np.zeros((1, 110), np.uint8), np.zeros(102, np.uint8), np.zeros((1, 102), np.int8)])
def test_wrong_arrays_are_refused(blocks):
    with pytest.raises(ValueError, match="102"):
        decode(blocks)


def test_golden_blocks_as_the_c_code_decodes_them(root):
    # 16 blocks of a quantized model and 24 random ones, d from 0 and the smallest to the largest half; the values are
    # what dequantize_row_iq3_a770 of patches/ gave for them
    blocks = np.fromfile(root / "tests/data/iq3_a770.blocks", np.uint8).reshape(-1, 102)
    values = np.fromfile(root / "tests/data/iq3_a770.f32", "<f4").reshape(-1, 256)
    assert len(blocks) == len(values) == 40
    assert np.array_equal(decode(blocks).view(np.uint32), values.view(np.uint32))  # bits: the sign of zero counts
