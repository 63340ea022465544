"""The routed experts of a BF16 model one by one, with the weights of their columns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prune_dual import IQ3_A770_BLOCK, Gguf, Tensor

from .errors import UserError
from .experts import routed_experts

JITTER = 0.05  # of the weights, in runs beyond the first

# tensor name -> (sum of squared activations [experts, columns], tokens seen [experts])
Imatrix = dict[str, tuple[np.ndarray, np.ndarray]]


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Return uint16 bits of BF16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Return finite float32 rounded to BF16, to even on a tie, as uint16 bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def column_weights(sums: np.ndarray, counts: np.ndarray, run: int = 0) -> np.ndarray:
    """Return the weights of the columns of each expert, float32 [experts, columns], as llama-quantize makes them.

    Parameters
    ----------
    sums, counts
        an entry of the imatrix; an expert without tokens gets weights of 1.
    run
        0 for the weights as they are. Others multiply them by noise of 5 %: the spread of several runs then tells how
        much of a difference is luck.
    """
    seen = counts > 0
    means = sums.astype(np.float32) / np.where(seen, counts, 1).astype(np.float32)[:, None]
    weights = np.where(seen[:, None], means, np.float32(1))
    if run == 0:
        return weights
    noise = np.random.default_rng(run).standard_normal(weights.shape, np.float32)
    return weights * np.exp(np.float32(JITTER) * noise)


def error_weights(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the weights of the errors that the encoder minimizes, for float32 rows and their columns' weights."""
    squares = rows.reshape(-1, IQ3_A770_BLOCK) ** 2
    spread = np.sqrt(2 * squares.mean(axis=1, keepdims=True) + squares)
    return columns * spread.reshape(rows.shape)


@dataclass(frozen=True)
class Matrix:
    """One expert of one tensor.

    `rows` are float32 [rows, columns], `columns` the weights of the columns; `offset` is where it lies in the file.
    """

    rows: np.ndarray
    columns: np.ndarray
    offset: int


def expert_tensors(model: Gguf, imatrix: Imatrix) -> list[Tensor]:
    """Return the tensors of routed experts.

    Raises
    ------
    UserError
        if one is not BF16, or the imatrix has no weights that fit it.
    """
    tensors = routed_experts(model)
    for tensor in tensors:
        if tensor.type_name != "BF16":
            raise UserError(f"{model.path}: {tensor.name} is {tensor.type_name}; errors are measured against BF16 only")
        n_columns, _, n_experts = tensor.shape
        if tensor.name not in imatrix or imatrix[tensor.name][0].shape != (n_experts, n_columns):
            raise UserError(f"the imatrix has no weights that fit {tensor.name}; was it made from this model?")
    return tensors


def matrices(tensor: Tensor, imatrix: Imatrix, run: int = 0) -> Iterator[Matrix]:
    """Read a tensor expert by expert: it may not fit in memory as float32."""
    n_columns, n_rows, n_experts = tensor.shape
    columns = column_weights(*imatrix[tensor.name], run)
    for expert in range(n_experts):
        offset = tensor.data.offset + expert * 2 * n_rows * n_columns
        bits = np.fromfile(tensor.data.path, "<u2", n_rows * n_columns, offset=offset)
        yield Matrix(from_bf16(bits).reshape(n_rows, n_columns), columns[expert], offset)


def energies(values: np.ndarray, matrix: Matrix, weights: np.ndarray) -> np.ndarray:
    """Return the weighted energy of the error of `values`, and that of the matrix itself."""
    error = (values.reshape(matrix.rows.shape) - matrix.rows) ** 2
    return np.array([(weights * error).sum(dtype=np.float64), (weights * matrix.rows**2).sum(dtype=np.float64)])


def relative_rmse(sums: list[np.ndarray]) -> float:
    """Return the relative RMSE from (error, reference) energies of each tensor; tensors count alike."""
    return float(np.sqrt(np.mean([error / reference for error, reference in sums])))
