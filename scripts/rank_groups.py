"""Put the groups in order of promotion: best quality per byte first."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from phase_twin.errors import UserError
from phase_twin.experts import EXPERTS, layer_and_class
from phase_twin.files import write_text
from phase_twin.rule import run_rule
from prune_dual import Gguf

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


def order_groups(
    energy: dict[str, float], gain_bytes: dict[str, int], tie_gate_up: bool
) -> tuple[list[str], list[int] | None]:
    """Order groups by energy per byte of promotion, descending; equal scores by name.

    Parameters
    ----------
    energy, gain_bytes
        per group name; bytes are those that promotion adds.
    tie_gate_up
        give gate and up of one layer one number: they are promoted together or not at all.

    Returns
    -------
    (promote_order, promote_tie)
        promote_tie is None without ties.
    """
    units: dict[tuple[int, str], list[str]] = {}
    for name in energy:
        layer, tensor_class = layer_and_class(name)
        if tie_gate_up and tensor_class in ("gate", "up"):
            tensor_class = "gate_up"
        units.setdefault((layer, tensor_class), []).append(name)

    def score(unit: tuple[int, str]) -> float:
        # nothing to gain in bytes: the selection rule skips it, so it goes last
        added = sum(gain_bytes[name] for name in units[unit])
        return sum(energy[name] for name in units[unit]) / added if added > 0 else -1.0

    ordered = sorted(units, key=lambda unit: (-score(unit), unit))
    order = [name for unit in ordered for name in sorted(units[unit])]
    if not tie_gate_up:
        return order, None
    return order, [number for number, unit in enumerate(ordered) for _ in units[unit]]


def expert_bytes(path: str | Path) -> dict[str, int]:
    """Bytes of every routed-expert tensor of a GGUF."""
    return {tensor.name: tensor.nbytes for tensor in Gguf.read(path).tensors if EXPERTS.fullmatch(tensor.name)}


def uncalibrated(counts: np.ndarray) -> Sequence[int]:
    """Experts that no calibration token reached."""
    return [int(expert) for expert in np.flatnonzero(counts == 0)]


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    low, high = (expert_bytes(path) for path in snakemake.input.variants)
    imatrix = read_imatrix(snakemake.input.imatrix)
    energy = {}
    for name in low:
        if name not in imatrix:
            raise UserError(f"{snakemake.input.imatrix}: no entry for {name}; was it made from this model?")
        sums, counts = imatrix[name]
        energy[name] = imatrix_energy(sums, counts)
        if missing := uncalibrated(counts):
            log.warning("%s: experts %s saw no calibration token", name, missing)
    gain = {name: high[name] - low[name] for name in low}
    order, tie = order_groups(energy, gain, snakemake.params.tie_gate_up)
    groups = [{"name": name, "energy": energy[name], "gain_bytes": gain[name]} for name in order]
    document = {"method": snakemake.params.method, "promote_order": order, "promote_tie": tie, "groups": groups}
    write_text(snakemake.output.order, json.dumps(document, indent=2) + "\n")
    log.info("ranked %d groups, first %s", len(order), order[0])


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
