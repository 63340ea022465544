"""What tables of IQ3_A770_R give on weights of other distributions than those that they were fitted to."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from phase_twin.codebook import Codec
from phase_twin.iq3_a770 import unpack
from prune_dual import IQ3_A770_CODEBOOK
from prune_dual.container.tensor_types import IQ3_A770_R_GAIN, IQ3_A770_R_TABLES

ROOT = Path(__file__).resolve().parent.parent
FINE = 8  # weights that share a table
TABLES = np.array(IQ3_A770_R_TABLES, np.float32).reshape(4, 16)
# a gain and an offset per 8 weights in place of four tables: as many bits
PM8 = np.array([-111, -91, -66, -52, -35, -23, -10, 1, 12, 22, 34, 45, 59, 73, 95, 114], np.float32)

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Student's t, 5 degrees": lambda rng, shape: rng.standard_t(5, size=shape),
}


def pm8_tables() -> np.ndarray:
    """The four tables that pm8 amounts to, float32 [4, 16], in units of `TABLES`."""
    rows = [(20 + gain) * (PM8 + offset) / 16 for gain in (-1, 1) for offset in (-2, 2)]
    return np.array(rows, np.float32) / IQ3_A770_R_GAIN


def choose(x: np.ndarray, codes: np.ndarray, scales: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose table and bit for groups of 8 weights; return entries 16*table + 2*code + bit and the values, [n, 8]."""
    entries, values, least = np.zeros(codes.shape, np.int64), np.zeros_like(x), np.full(len(x), np.inf)
    for number, table in enumerate(tables):
        pair = scales[:, None, None] * IQ3_A770_R_GAIN * table[2 * codes[:, :, None] + np.arange(2)]
        error = (x[:, :, None] - pair) ** 2
        bit = error.argmin(axis=2)
        sums = error.min(axis=2).sum(axis=1)
        better = sums < least
        least[better] = sums[better]
        entries[better] = (16 * number + 2 * codes + bit)[better]
        values[better] = np.take_along_axis(pair, bit[:, :, None], axis=2)[:, :, 0][better]
    return entries, values


def refit(x: np.ndarray, codes: np.ndarray, scales: np.ndarray, rounds: int = 12) -> np.ndarray:
    """Tables with the least error for these weights, from `TABLES` on: Lloyd's iteration, rounded to int8."""
    tables = TABLES.copy()
    unit = np.broadcast_to(scales[:, None] * IQ3_A770_R_GAIN, x.shape)
    for _ in range(rounds):
        entries, _ = choose(x, codes, scales, tables)
        above = np.bincount(entries.ravel(), (x * unit).ravel(), minlength=tables.size)
        below = np.bincount(entries.ravel(), (unit * unit).ravel(), minlength=tables.size)
        tables = np.where(below > 0, above / np.maximum(below, 1e-30), tables.ravel()).reshape(4, 16)
    return np.round(tables).astype(np.float32)


def rmse(x: np.ndarray, values: np.ndarray) -> float:
    """Root of the mean square error, relative to that of the weights."""
    return float(np.sqrt(np.square(x - values).sum() / np.square(x).sum()))


def main() -> None:
    """Print a row per distribution and length of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=ROOT / "resources/engine/source", help="the patched llama.cpp")
    parser.add_argument("--blocks", type=int, default=4096, help="of 256 weights, for each row of the table")
    args = parser.parse_args()
    rng = np.random.default_rng(3)
    print("| weights | columns | IQ3_A770 | with its plane | tables fitted to them | pm8 |\n|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        codec = Codec(IQ3_A770_CODEBOOK, args.tree, Path(folder), Path(folder) / "cc.log")
        for name, draw in DISTRIBUTIONS.items():
            for columns in (2048, 512):
                shape = (args.blocks * 256 // columns, columns)
                # rows and columns of a trained matrix differ in size
                spread = np.exp(0.3 * rng.standard_normal((shape[0], 1)) + 0.3 * rng.standard_normal((1, columns)))
                weights = (draw(rng, shape) * spread).astype(np.float32)
                codes, scales = unpack(codec.encode(weights, np.ones(columns)))
                x, codes = weights.reshape(-1, FINE), codes.reshape(-1, FINE).astype(np.int64)
                scales = scales.reshape(-1).repeat(32 // FINE)
                base = scales[:, None] * np.array(IQ3_A770_CODEBOOK, np.float32)[codes]
                found = [base] + [
                    choose(x, codes, scales, tables)[1] for tables in (TABLES, refit(x, codes, scales), pm8_tables())
                ]
                print(f"| {name} | {columns} | " + " | ".join(f"{rmse(x, values):.4f}" for values in found) + " |")


if __name__ == "__main__":
    main()
