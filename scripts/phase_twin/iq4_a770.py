"""IQ4_A770, which is IQ3_A770 and its plane IQ3_A770_R together, decoded from its definition."""

import numpy as np

from prune_dual import (
    IQ3_A770_BLOCK,
    IQ3_A770_BYTES,
    IQ3_A770_R_BYTES,
    IQ3_A770_R_GAIN,
    IQ3_A770_R_TABLES,
    IQ4_A770_BYTES,
)

from . import iq3_a770


def unpack_plane(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residual bit of each weight and the table that it is looked up in, 0 to 3: uint8 [n, 256] each.

    Parameters
    ----------
    blocks : uint8 [n, 40]
        sel[8] (2 bits for each group of 8 weights), rmask[32] (residual bits, ordered as hmask of IQ3_A770).
    """
    _check(blocks, IQ3_A770_R_BYTES)
    sel, rmask = blocks[:, :8], blocks[:, 8:]
    weight = np.arange(IQ3_A770_BLOCK)
    residual = (rmask[:, weight % 32] >> (weight // 32).astype(np.uint8)) & 1
    table = (sel[:, weight // 32] >> (2 * (weight % 32 // 8)).astype(np.uint8)) & 3
    return residual, table


def decode_planes(base: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Decode blocks of 256 weights from a tensor of IQ3_A770 and one of IQ3_A770_R.

    Parameters
    ----------
    base : uint8 [n, 102]
    plane : uint8 [n, 40]

    Returns
    -------
    float32 [n, 256]
        d * scale * T[table][2 * code + residual] * 1.25. Half times 4 bits times 8 bits times 1.25 fits the 24 bits of
        a float32, as no entry of T is above 127: the products are exact, and every right decoder agrees bit for bit.
    """
    codes, scales = iq3_a770.unpack(base)
    residual, table = unpack_plane(plane)
    levels = np.array(IQ3_A770_R_TABLES, np.float32).reshape(4, 16)[table, 2 * codes + residual]
    return scales.repeat(32, axis=1) * levels * np.float32(IQ3_A770_R_GAIN)


def decode(blocks: np.ndarray) -> np.ndarray:
    """Decode blocks of IQ4_A770, uint8 [n, 142]: the block of IQ3_A770, then that of the plane. See `decode_planes`."""
    _check(blocks, IQ4_A770_BYTES)
    return decode_planes(blocks[:, :IQ3_A770_BYTES], blocks[:, IQ3_A770_BYTES:])


def _check(blocks: np.ndarray, nbytes: int) -> None:
    if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != nbytes:
        raise ValueError(f"blocks must be uint8 [n, {nbytes}], are {blocks.dtype} {list(blocks.shape)}")
