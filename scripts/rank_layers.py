"""Rank the layers of each class of expert tensors by importance, for recipes that raise the most important ones."""

import json
import logging
from typing import Any

import gguf
import numpy as np

from phase_twin.experts import EXPERTS, layer_and_class
from phase_twin.files import write_text
from phase_twin.results import write_result
from phase_twin.rule import run_rule
from rank_groups import imatrix_energy, read_imatrix

log = logging.getLogger("phase_twin")

TAKEN = {"chunks": "chunk_count", "n_ctx": "chunk_size"}


def rank_layers(energy: dict[str, float]) -> dict[str, list[int]]:
    """Return expert class -> layers, most important first; equal ones in their order.

    Parameters
    ----------
    energy
        per expert tensor; all layers of a class have the same size, so bytes need no part in this.
    """
    found: dict[str, list[tuple[float, int]]] = {"gate": [], "up": [], "down": []}
    for name, value in energy.items():
        layer, tensor_class = layer_and_class(name)
        found[tensor_class].append((-value, layer))
    return {tensor_class: [layer for _, layer in sorted(pairs)] for tensor_class, pairs in found.items()}


def unseen_experts(experts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Count the experts that saw no token of the calibration text: their types were chosen without data.

    Returns
    -------
    dict
        `experts`, all of them; `without_data`, and the `layers` in which those are.
    """
    counts = {layer_and_class(name)[0]: counts for name, (_, counts) in experts.items() if "_down_" in name}
    unseen = {layer: int((seen == 0).sum()) for layer, seen in sorted(counts.items())}
    return {
        "experts": sum(seen.size for seen in counts.values()),
        "without_data": sum(unseen.values()),
        "layers": [layer for layer, number in unseen.items() if number],
    }


def text_taken(imatrix: str) -> dict[str, int]:
    """How much of the calibration text went into an imatrix, as it says itself: `chunks` of `n_ctx` tokens."""
    fields = gguf.GGUFReader(imatrix).fields
    return {name: int(fields[f"imatrix.{key}"].contents()) for name, key in TAKEN.items()}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above; params.chunks_asked: chunks to take, None for the whole text."""
    experts = {name: entry for name, entry in read_imatrix(snakemake.input.imatrix).items() if EXPERTS.fullmatch(name)}
    ranking = rank_layers({name: imatrix_energy(*entry) for name, entry in experts.items()})
    found = unseen_experts(experts) | text_taken(snakemake.input.imatrix)
    found["chunks_asked"] = snakemake.params.chunks_asked
    if found["without_data"]:
        log.warning(
            "%d of %d experts saw no token of the calibration text (layers %s) and are quantized without data; "
            "give imatrix.corpus a longer text, or one of more kinds",
            found["without_data"], found["experts"], ", ".join(map(str, found["layers"])),
        )  # fmt: skip
    write_result(snakemake.output.calibration, found, snakemake)
    write_text(snakemake.output.ranking, json.dumps(ranking) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
