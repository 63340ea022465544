"""Fit IQ3_A770's table to the experts of a model: Lloyd iterations from version 1."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phase_twin.codebook import END, Codec
from phase_twin.expert_matrices import Imatrix, energies, error_weights, expert_tensors, matrices, relative_rmse
from phase_twin.iq3_a770 import unpack
from phase_twin.results import write_result
from phase_twin.rule import run_rule
from prune_dual import IQ3_A770_CODEBOOK, Gguf
from rank_groups import read_imatrix

log = logging.getLogger("phase_twin")


def lloyd_sums(rows: np.ndarray, weights: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return, per code, the sums whose ratio is the value with the least weighted error: [2, 8].

    The error of an element is weight * (x - scale * K[code])^2, so that value is sum(weight * scale * x) over
    sum(weight * scale^2).

    Parameters
    ----------
    rows, weights
        elements and the weights of their errors, in the order of the blocks.
    codes, scales
        as encoded: [n, 256], and [n, 8] for sub-blocks of 32.
    """
    scale = scales.repeat(32, axis=1).ravel().astype(np.float64)
    parts = (weights.ravel() * scale * rows.ravel(), weights.ravel() * scale**2)
    return np.stack([np.bincount(codes.ravel(), part, minlength=8) for part in parts])


def lloyd_table(table: Sequence[int], sums: np.ndarray) -> list[int]:
    """Return the table after one Lloyd step, scaled to the end of the range and rounded.

    A code that no element has keeps its value.
    """
    above, below = sums
    values = np.where(below > 0, above / np.where(below > 0, below, 1), np.array(table, np.float64))
    return [int(value) for value in np.rint(values * (END / np.abs(values).max()))]


def encode_all(model: Gguf, imatrix: Imatrix, codec: Codec) -> tuple[float, np.ndarray]:
    """Encode all experts; return the relative RMSE by the encoder's weights, and the sums for the next table."""
    found, sums = [], np.zeros((2, 8))
    for tensor in expert_tensors(model, imatrix):
        tensor_energies, tensor_sums = np.zeros(2), np.zeros((2, 8))
        for matrix in matrices(tensor, imatrix):
            blocks = codec.encode(matrix.rows, matrix.columns)
            weights = error_weights(matrix.rows, matrix.columns)
            tensor_energies += energies(codec.decode(blocks), matrix, weights)
            tensor_sums += lloyd_sums(matrix.rows, weights, *unpack(blocks))
        found.append(tensor_energies)
        # weights differ by orders of magnitude between tensors; all tensors are to count alike
        sums += tensor_sums / tensor_energies[1]
    return relative_rmse(found), sums


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    model, imatrix = Gguf.read(snakemake.input.model), read_imatrix(snakemake.input.imatrix)
    table, steps = list(IQ3_A770_CODEBOOK), []
    for _ in range(snakemake.params.iterations + 1):
        with tempfile.TemporaryDirectory() as folder:
            codec = Codec(table, Path(snakemake.params.tree), Path(folder), snakemake.log.tool)
            error, sums = encode_all(model, imatrix, codec)
        steps.append({"table": table, "rmse_encoder": error})
        log.info("%s: relative RMSE %.5f", table, error)
        table = lloyd_table(table, sums)
        if table == steps[-1]["table"]:
            break
    best = min(steps, key=lambda step: step["rmse_encoder"])
    write_result(snakemake.output.fitted, {"table": best["table"], "steps": steps}, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
