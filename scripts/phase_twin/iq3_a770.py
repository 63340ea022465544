"""IQ3_A770 decoded from its definition: an independent check of the engine's codec, not a fast one."""

import numpy as np

from prune_dual import IQ3_A770_BLOCK, IQ3_A770_BYTES, IQ3_A770_CODEBOOK


def unpack(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes, uint8 [n, 256], and the scales, float32 [n, 8], d * scale of each sub-block of 32 weights.

    Parameters
    ----------
    blocks : uint8 [n, 102]
        hmask[32] (high bit of each code), qs[64] (low two bits), scales[4] (eight 4-bit scales), d (IEEE half).
    """
    if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != IQ3_A770_BYTES:
        raise ValueError(f"blocks must be uint8 [n, {IQ3_A770_BYTES}], are {blocks.dtype} {list(blocks.shape)}")
    hmask, qs, scales = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:100]
    d = np.ascontiguousarray(blocks[:, 100:102]).view("<f2").astype(np.float32)

    weight = np.arange(IQ3_A770_BLOCK)
    half, byte, pair = weight // 128, weight % 32, (weight % 128) // 32
    low = (qs[:, 32 * half + byte] >> (2 * pair).astype(np.uint8)) & 3
    high = (hmask[:, byte] >> (weight // 32).astype(np.uint8)) & 1

    sub_block = np.arange(8)
    nibble = (scales[:, sub_block >> 1] >> (4 * (sub_block & 1)).astype(np.uint8)) & 15
    return low | (high << 2), d * (nibble.astype(np.float32) - 8)


def decode(blocks: np.ndarray) -> np.ndarray:
    """Decode blocks of 256 weights.

    Parameters
    ----------
    blocks : uint8 [n, 102]

    Returns
    -------
    float32 [n, 256]
        d * scale * K[code]. Half times 4 bits times 8 bits fits the 24 bits of a float32: the products are exact, so
        the order of the operations does not matter and every right decoder agrees bit for bit.
    """
    codes, scales = unpack(blocks)
    return scales.repeat(32, axis=1) * np.array(IQ3_A770_CODEBOOK, np.float32)[codes]
