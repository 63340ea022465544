"""Put the groups in order of promotion: most benefit per byte first, but for what is better at some budget."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from phase_twin.errors import UserError
from phase_twin.experts import routed_experts, units
from phase_twin.nested import read_variants
from phase_twin.ordering import improve
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule
from prune_dual import Gguf, Tensor

log = logging.getLogger("phase_twin")


def read_imatrix(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read an imatrix GGUF.

    Returns
    -------
    dict
        tensor name -> (sum of squared activations [experts, columns], tokens seen [experts]).
    """
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for key, sums in tensors.items():
        name = key.removesuffix(".in_sum2")
        if name != key:
            counts = np.asarray(tensors[f"{name}.counts"], np.float64).reshape(-1)
            found[name] = (np.asarray(sums, np.float64).reshape(counts.size, -1), counts)
    return found


def imatrix_energy(sums: np.ndarray, counts: np.ndarray) -> float:
    """Mean squared activation of each expert by its own count, summed over experts and columns.

    Experts that saw no token add nothing.
    """
    seen = counts > 0
    return float((sums[seen] / counts[seen, None]).sum())


def expert_tensors_of(model: Gguf) -> dict[str, Tensor]:
    """Every routed-expert tensor by name."""
    return {tensor.name: tensor for tensor in routed_experts(model)}


def gain_bytes(low: Gguf, high: Gguf) -> dict[str, int]:
    """Bytes that the promotion of each group adds."""
    above = expert_tensors_of(high)
    return {name: above[name].nbytes - tensor.nbytes for name, tensor in expert_tensors_of(low).items()}


def order_groups(
    benefit: dict[str, float], gain: dict[str, int], layers: Sequence[int], tie_gate_up: bool
) -> tuple[list[str], list[int] | None]:
    """Order groups by benefit per byte of promotion, descending; equal scores by layer.

    What then gains at some budget and loses at none is moved forward: `phase_twin.ordering`.

    Parameters
    ----------
    benefit, gain
        per group name; the gain is in bytes, the benefit in any unit of which more is better.
    tie_gate_up
        give gate and up of one layer one number: they are promoted together or not at all.

    Returns
    -------
    (promote_order, promote_tie)
        promote_tie is None without ties.

    Raises
    ------
    UserError
        if the groups are not those of `layers`.
    """
    together = units(layers, tie_gate_up)
    if odd := {name for names in together.values() for name in names} ^ benefit.keys():
        raise UserError(
            f"model.moe_layers and dense_layers give layers {layers[0]} to {layers[-1]}, which does not fit "
            f"{min(odd)} of the model"
        )

    def score(names: list[str]) -> float:
        # nothing to gain in bytes: the selection rule skips it, so it goes last
        added = sum(gain[name] for name in names)
        return sum(benefit[name] for name in names) / added if added > 0 else float("-inf")

    ordered = sorted(together.values(), key=lambda names: -score(names))
    worth = [names for names in ordered if score(names) > float("-inf")]
    if worth:
        benefits = np.array([max(sum(benefit[name] for name in names), 0.0) for names in worth])
        sizes = np.array([sum(gain[name] for name in names) for names in worth])
        ordered[: len(worth)] = [worth[item] for item in improve(range(len(worth)), benefits, sizes)]
    order = [name for names in ordered for name in names]
    return order, [number for number, names in enumerate(ordered) for _ in names] if tie_gate_up else None


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    low, high = read_variants(snakemake.input.variants)
    scores = read_result(snakemake.input.scores)
    benefit, gain = scores["benefit"], gain_bytes(low, high)
    order, tie = order_groups(benefit, gain, snakemake.params.layers, snakemake.params.tie_gate_up)
    groups = [{"name": name, "benefit": benefit[name], "gain_bytes": gain[name]} for name in order]
    if errors := scores.get("benefit_err"):
        groups = [group | {"benefit_err": errors[group["name"]]} for group in groups]
    document = {"method": scores["method"], "promote_order": order, "promote_tie": tie, "groups": groups}
    write_result(snakemake.output.order, document, snakemake)
    log.info("ranked %d groups by %s, first %s", len(order), scores["method"], order[0])


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
