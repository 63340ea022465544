"""The engine's search encoder for IQ3_A770, compiled for another table."""

import ctypes
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prune_dual import IQ3_A770_BLOCK, IQ3_A770_BYTES, IQ3_A770_CODEBOOK

from .errors import UserError
from .rule import run_tool

Table = Sequence[int]

END = 127  # the largest magnitude in a table; the encoder looks for d in a range that fits it
OCTAVE = 31  # steps per octave of the encoder's grid
# the crossing furthest out must be as far, or elements near the block's largest fall off the encoder's arrays
REACH = 195

# with contraction the bytes would not be those of the engine
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off", "-shared", "-fPIC")
# all that the encoder takes from the rest of ggml
SHIM = """\
#include "ggml-iq3-a770.c"

size_t ggml_row_size(enum ggml_type type, int64_t ne) {
    (void) type;
    return ne/QK_K*sizeof(block_iq3_a770);
}
"""


def midpoints(table: Table) -> list[float]:
    """Halfway between neighbours."""
    return [(low + high) / 2 for low, high in itertools.pairwise(table)]


def check_table(table: Table) -> None:
    """Raise a UserError if the encoder cannot be compiled for the table; says why."""
    if len(table) != 8 or list(table) != sorted(set(table)):
        raise UserError(f"codebook {list(table)}: must be 8 different values in ascending order")
    if max(map(abs, table)) != END:
        raise UserError(f"codebook {list(table)}: its largest magnitude must be {END}, scale it")
    if max(_distances(table)) < REACH:
        raise UserError(f"codebook {list(table)}: the ends are too far from their neighbours for the encoder's grid")


def _distances(table: Table) -> list[int]:
    """Grid distances of the crossings; one within 1 of zero counts as 1, codes are chosen exactly later."""
    return [round(OCTAVE * math.log2(max(1.0, abs(mid)))) for mid in midpoints(table)]


def _pieces(table: Table) -> tuple[list[str], list[str]]:
    """Return what depends on the table, as it is written in ggml-common.h and in ggml-iq3-a770.c."""
    mids, distances = midpoints(table), _distances(table)
    n_neg = sum(mid < 0 for mid in mids)
    base = table[n_neg]  # the value next to zero, from which the crossings lead to either end
    outer = [table[i] if i < n_neg else table[i + 1] for i in range(7)]
    inner = [table[i + 1] if i < n_neg else table[i] for i in range(7)]

    def less(x: int, y: int) -> str:
        # the rise from y to x, seen from the side that x is on
        sign = "-" if x * y >= 0 else "+"
        return f"{abs(x)} {sign} {abs(y)}"

    steps = ", ".join(less(x, y) for x, y in zip(outer, inner, strict=True))
    squares = ", ".join(f"{abs(x)}*{abs(x)} - {abs(y)}*{abs(y)}" for x, y in zip(outer, inner, strict=True))
    source = [
        "mid[7] = { " + ", ".join(f"{mid:.1f}f" for mid in mids) + " };",
        f"#define IQ3_A770_MID0   {min(distances)} ",
        f"(IQ3_A770_N_S + {max(distances)} - IQ3_A770_MID0)",
        f"ka[7] = {{ {steps} }};",
        f"        {squares},\n",
        f"(neg ? {-base:.1f}f : {base:.1f}f)*sumwx",
        f"_cross({abs(base):.1f}f*{abs(base):.1f}f*sumw,",
    ]
    for i, distance in enumerate(distances):
        source.append(f"k[{i}]*{'neg' if i < n_neg else 'pos'}[i + {distance:3d} - IQ3_A770_MID0]")
    return ["    " + ", ".join(map(str, table)) + ",\n"], source


def _replace(text: str, old: Sequence[str], new: Sequence[str], what: str) -> str:
    for piece in old:
        if text.count(piece) != 1:
            raise UserError(
                f"{what}: {piece.strip()!r} is there {text.count(piece)} times, not once; "
                "phase_twin/codebook.py must follow the change of the encoder"
            )
    by_piece = dict(zip(old, new, strict=True))
    return re.sub("|".join(map(re.escape, old)), lambda match: by_piece[match[0]], text)


def substitute(header: str, source: str, table: Table) -> tuple[str, str]:
    """Put a table in the place of version 1's, and all constants derived from it.

    Parameters
    ----------
    header, source
        texts of ggml-common.h and ggml-iq3-a770.c. Each place is found by its text for version 1, written by the same
        code as the new one.

    Raises
    ------
    UserError
        if the table cannot be encoded with, or a place is not found exactly once.
    """
    check_table(table)
    (old_header, old_source), (new_header, new_source) = _pieces(IQ3_A770_CODEBOOK), _pieces(table)
    return (
        _replace(header, old_header, new_header, "ggml-common.h"),
        _replace(source, old_source, new_source, "ggml-iq3-a770.c"),
    )


class Codec:
    """quantize_iq3_a770 and dequantize_row_iq3_a770 of the engine, for one table."""

    def __init__(self, table: Table, tree: Path, folder: Path, tool_log: str | Path) -> None:
        """Compile them.

        Parameters
        ----------
        tree
            the engine's source.
        folder
            an empty one, for source and library.

        Raises
        ------
        UserError
            if the table does not fit, the source has changed too much, or the compiler fails.
        """
        inner = tree / "ggml/src"
        header, source = ((inner / name).read_text() for name in ("ggml-common.h", "ggml-iq3-a770.c"))
        header, source = substitute(header, source, table)
        # beside the file that includes it, this header goes before the engine's own
        (folder / "ggml-common.h").write_text(header)
        (folder / "ggml-iq3-a770.c").write_text(source)
        (folder / "codec.c").write_text(SHIM)
        library = folder / "codec.so"
        includes = ["-I", inner, "-I", tree / "ggml/include"]
        run_tool(["cc", *FLAGS, *includes, folder / "codec.c", "-o", library], tool_log, append=True)
        functions = ctypes.CDLL(str(library.resolve()))
        self._encode, self._decode = functions.quantize_iq3_a770, functions.dequantize_row_iq3_a770
        self._encode.restype, self._decode.restype = ctypes.c_size_t, None
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._encode.argtypes = [pointer, pointer, count, count, pointer]
        self._decode.argtypes = [pointer, pointer, count]

    def encode(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the blocks, uint8 [n, 102], of float32 rows with float32 weights of their columns."""
        rows, weights = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(weights, np.float32)
        n_rows, n_columns = rows.shape
        if n_columns % IQ3_A770_BLOCK or weights.shape != (n_columns,):
            raise ValueError(f"rows are {rows.shape}, weights {weights.shape}")
        blocks = np.empty((rows.size // IQ3_A770_BLOCK, IQ3_A770_BYTES), np.uint8)
        self._encode(rows.ctypes.data, blocks.ctypes.data, n_rows, n_columns, weights.ctypes.data)
        return blocks

    def decode(self, blocks: np.ndarray) -> np.ndarray:
        """Return the float32 values, [n, 256], of blocks."""
        values = np.empty((len(blocks), IQ3_A770_BLOCK), np.float32)
        self._decode(np.ascontiguousarray(blocks).ctypes.data, values.ctypes.data, values.size)
        return values
