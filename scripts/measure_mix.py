"""Measure the twin with some of its groups promoted: those named, or those that an order fits into a budget."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from measure_quality import measure, merge
from phase_twin.mix import mix
from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule
from prune_dual import Selection, Twin, select


def fit(twin: Twin, order: dict[str, Any], percent: int) -> Selection:
    """What an order promotes within `percent` of the bytes that full promotion adds."""
    ordered = replace(twin, promote_order=order["promote_order"], promote_tie=order["promote_tie"])
    low, high = (sum(tensor.nbytes for tensor in twin.phase(number)) for number in (0, 1))
    return select(ordered, budget_bytes=low + (high - low) * percent // 100)


def main(snakemake: Any) -> None:
    """Map the rule to the functions above; params: `promoted`, or `percent` of the order in the input."""
    params, given = snakemake.params, snakemake.input
    twin = Twin.read(given.twin)
    row: dict[str, Any] = {}
    if params.get("percent") is None:
        promoted = [name for name in params.promoted if name in twin.groups]
    else:
        selection = fit(twin, read_result(given.order), params.percent)
        promoted = selection.promoted
        row = {"percent": params.percent, "budget_bytes": selection.budget_bytes, "bytes": selection.selected_bytes}
    if given.get("parts"):
        summary = merge(snakemake, given.twin)
    else:
        # always the same name, so that nothing piles up after a kill
        plain = Path(snakemake.output[0]).with_suffix(".partial.gguf")
        with mix(twin, promoted, plain) as (model, flags):
            summary = measure(snakemake, model, flags)
    if summary is None:
        return
    row |= {"promoted": promoted, "reference": params.reference, **summary}
    write_result(snakemake.output.row, row, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
