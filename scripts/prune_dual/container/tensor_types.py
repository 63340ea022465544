"""Tensor types: block sizes, names of files, and those that the stock gguf package does not know."""

import math
from collections.abc import Sequence

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

# IQ3_A770: 256 weights in 102 bytes. llama.cpp later gave the first ids used, 42 and file type 28, to others.
IQ3_A770 = 770
IQ3_A770_LEGACY = 42
Q2_0 = 42
IQ3_A770_FILE_TYPE = 770
IQ3_A770_BLOCK, IQ3_A770_BYTES = 256, 102
IQ3_A770_VERSION = 1
IQ3_A770_CODEBOOK = (-125, -73, -36, -4, 21, 49, 82, 127)

KEY_IQ3_A770_VERSION = "iq3_a770.version"
KEY_IQ3_A770_CODEBOOK = "iq3_a770.codebook"

# IQ3_A770_R: the plane that refines a tensor of IQ3_A770. IQ4_A770: both of a block, base first.
IQ3_A770_R, IQ4_A770 = 771, 772
IQ3_A770_R_BYTES = 40
IQ4_A770_BYTES = IQ3_A770_BYTES + IQ3_A770_R_BYTES
IQ4_A770_FILE_TYPE = 772
IQ3_A770_R_VERSION = 1
# four tables of 16, one after the other
IQ3_A770_R_TABLES = (
    *(-108, -91, -66, -52, -36, -24, -11, -1, 10, 19, 31, 41, 55, 67, 88, 104),
    *(-101, -85, -59, -47, -31, -20, -7, 3, 13, 23, 34, 45, 59, 72, 94, 111),
    *(-121, -99, -72, -57, -39, -26, -12, -1, 11, 21, 33, 45, 60, 73, 95, 115),
    *(-112, -92, -65, -51, -34, -22, -8, 3, 14, 25, 37, 49, 65, 78, 102, 124),
)
IQ3_A770_R_GAIN = 1.25  # value = d * scale * table entry * this

KEY_IQ3_A770_R_VERSION = "iq3_a770_r.version"
KEY_IQ3_A770_R_TABLES = "iq3_a770_r.tables"

BLOCK_SIZES = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()} | {
    IQ3_A770: (IQ3_A770_BLOCK, IQ3_A770_BYTES),
    IQ3_A770_R: (IQ3_A770_BLOCK, IQ3_A770_R_BYTES),
    IQ4_A770: (IQ3_A770_BLOCK, IQ4_A770_BYTES),
    Q2_0: (64, 18),
}
NAMES = {int(kind): kind.name for kind in GGMLQuantizationType} | {
    IQ3_A770: "IQ3_A770",
    IQ3_A770_R: "IQ3_A770_R",
    IQ4_A770: "IQ4_A770",
    Q2_0: "Q2_0",
}

# what a file is called whose experts are mostly of a type
FILE_TYPES = {IQ3_A770: IQ3_A770_FILE_TYPE, IQ4_A770: IQ4_A770_FILE_TYPE, Q2_0: 41} | {
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
