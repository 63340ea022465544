"""Score the groups from the files alone: by the error of their types, or by a rule of thumb."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np

from phase_twin import iq3_a770, iq4_a770
from phase_twin.errors import UserError
from phase_twin.expert_matrices import Imatrix, expert_tensors, matrices
from phase_twin.experts import layer_and_class
from phase_twin.nested import read_variants
from phase_twin.results import write_result
from phase_twin.rule import Progress, run_rule
from prune_dual import BLOCK_SIZES, IQ3_A770, IQ4_A770, Gguf, Span, Strand, Tensor
from rank_groups import expert_tensors_of, gain_bytes, imatrix_energy, read_imatrix

log = logging.getLogger("phase_twin")

SEED = 42
OWN_TYPES = {IQ3_A770: iq3_a770.decode, IQ4_A770: iq4_a770.decode}


def decoded(tensor: Tensor) -> Iterator[np.ndarray]:
    """Read a tensor expert by expert as float32 [rows, columns]: a whole one may not fit in memory."""
    n_columns, n_rows, n_experts = tensor.shape
    block, size = BLOCK_SIZES[tensor.type]
    n_blocks = n_rows * n_columns // block
    # a tensor may be the bases of another one's blocks
    strand = Strand(tensor.data, size, 0, size) if isinstance(tensor.data, Span) else tensor.data.strands[0]
    nbytes = n_blocks * strand.block
    for expert in range(n_experts):
        raw = np.fromfile(strand.span.path, np.uint8, nbytes, offset=strand.span.offset + expert * nbytes)
        blocks = raw.reshape(n_blocks, strand.block)[:, strand.first : strand.first + strand.width]
        if tensor.type in OWN_TYPES:
            values = OWN_TYPES[tensor.type](blocks)
        else:
            values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(tensor.type))
        yield values.reshape(n_rows, n_columns)


def weighted_errors(reference: Tensor, variants: list[Tensor], imatrix: Imatrix) -> list[float]:
    """Mean squared error of a tensor's output per token that an expert gets, as the imatrix tells it, per variant.

    Each expert counts by the tokens that it was given: its sums of squared activations weigh the columns, not their
    means. Activations are taken as uncorrelated, so error feedback looks worse here than it is.
    """
    sums, counts = imatrix[reference.name]
    errors = np.zeros(len(variants))
    for expert, (matrix, *values) in enumerate(
        zip(matrices(reference, imatrix), *(decoded(tensor) for tensor in variants), strict=True)
    ):
        errors += [float((((value - matrix.rows) ** 2).sum(axis=0) * sums[expert]).sum()) for value in values]
    return list(errors / max(counts.sum(), 1))


def imatrix_energies(low: Gguf, high: Gguf, imatrix: Imatrix, model: Gguf) -> dict[str, float]:
    """The activations alone: where they are large, errors are taken to be."""
    del high, model
    for name in expert_tensors_of(low):
        if name not in imatrix:
            raise UserError(f"the imatrix has no entry for {name}; was it made from this model?")
        if (missing := np.flatnonzero(imatrix[name][1] == 0)).size:
            log.warning("%s: experts %s saw no calibration token", name, missing.tolist())
    return {name: imatrix_energy(*imatrix[name]) for name in expert_tensors_of(low)}


def error_reductions(low: Gguf, high: Gguf, imatrix: Imatrix, model: Gguf) -> dict[str, float]:
    """Weighted error at variant 0 less that at variant 1."""
    variants = [expert_tensors_of(variant) for variant in (low, high)]
    found = {}
    with Progress("errors") as bar:
        tensors = expert_tensors(model, imatrix)
        for done, tensor in enumerate(tensors, 1):
            errors = weighted_errors(tensor, [tensors_of[tensor.name] for tensors_of in variants], imatrix)
            found[tensor.name] = errors[0] - errors[1]
            bar.show(done, len(tensors))
    return found


def by_layer(low: Gguf, high: Gguf, imatrix: Imatrix, model: Gguf) -> dict[str, float]:
    """First layers first: what goes wrong there goes through all others."""
    del imatrix, model
    return {name: gain / (1 + layer_and_class(name)[0]) for name, gain in gain_bytes(low, high).items()}


def at_random(low: Gguf, high: Gguf, imatrix: Imatrix, model: Gguf) -> dict[str, float]:
    """The control: an order that knows nothing."""
    del imatrix, model
    random = np.random.default_rng(SEED)
    return {name: gain * float(random.random()) for name, gain in sorted(gain_bytes(low, high).items())}


METHODS: dict[str, Callable[[Gguf, Gguf, Imatrix, Gguf], dict[str, float]]] = {
    "imatrix_energy": imatrix_energies,
    "weighted_error": error_reductions,
    "first_layers": by_layer,
    "random": at_random,
}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    low, high = read_variants(snakemake.input.variants)
    imatrix, model = read_imatrix(snakemake.input.imatrix), Gguf.read(snakemake.input.model)
    benefit = METHODS[snakemake.params.method](low, high, imatrix, model)
    document = {"method": snakemake.params.method, "benefit": benefit}
    write_result(snakemake.output.scores, document, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
