"""Rank the layers of each class of expert tensors by importance, for recipes that raise the most important ones."""

import json
from typing import Any

from phase_twin.experts import EXPERTS, layer_and_class
from phase_twin.files import write_text
from phase_twin.rule import run_rule
from rank_groups import imatrix_energy, read_imatrix


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


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    experts = {name: entry for name, entry in read_imatrix(snakemake.input.imatrix).items() if EXPERTS.fullmatch(name)}
    ranking = rank_layers({name: imatrix_energy(*entry) for name, entry in experts.items()})
    write_text(snakemake.output.ranking, json.dumps(ranking) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
