"""Tensor types: block sizes, names of files, and IQ3_A770, which the stock gguf package does not know."""

import math
from collections.abc import Sequence

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

# IQ3_A770: 256 weights in 102 bytes. llama.cpp later gave the first ids used, 42 and file type 28, to another type.
IQ3_A770 = 770
IQ3_A770_LEGACY = 42
IQ3_A770_FILE_TYPE = 770
IQ3_A770_BLOCK, IQ3_A770_BYTES = 256, 102
IQ3_A770_VERSION = 1
IQ3_A770_CODEBOOK = (-125, -73, -36, -4, 21, 49, 82, 127)

BLOCK_SIZES = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()} | {
    IQ3_A770: (IQ3_A770_BLOCK, IQ3_A770_BYTES)
}

# what a file is called whose experts are mostly of a type
FILE_TYPES = {IQ3_A770: IQ3_A770_FILE_TYPE} | {
    int(GGMLQuantizationType[kind]): int(LlamaFileType[f"MOSTLY_{kind}{suffix}"])
    for suffix, kinds in {
        "": "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q6_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS",
        "_M": "Q3_K Q4_K Q5_K",
    }.items()
    for kind in kinds.split()
}


def tensor_nbytes(shape: Sequence[int], kind: int) -> int:
    """Bytes of a tensor of `shape` (row length first) in the type of id `kind`.

    Raises
    ------
    ValueError
        if the type is unknown or the rows are no whole blocks; says which.
    """
    if kind not in BLOCK_SIZES:
        raise ValueError(f"unknown type id {kind}")
    block, size = BLOCK_SIZES[kind]
    if shape[0] % block:
        raise ValueError(f"rows of {shape[0]} weights are no multiple of the type's block of {block}")
    return math.prod(shape) // block * size
