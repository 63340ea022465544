"""Choose between a nested twin and one of siblings by what was measured of both large phases."""

import logging
from collections.abc import Mapping
from typing import Any

from phase_twin.results import read_result, write_result
from phase_twin.rule import run_rule
from phase_twin.wording import Z_LIMIT, compared, signed
from prune_dual import NESTED, SIBLINGS

log = logging.getLogger("phase_twin")


def choose(excess: Mapping[str, float]) -> str:
    """Siblings where the refined phase is beyond the margin for sure; else nested, which takes 0.6 of the bytes."""
    return SIBLINGS if compared(excess) == "worse" else NESTED


def reason(comparison: Mapping[str, Any], kind: str) -> str:
    """Say in a sentence what was chosen and why."""
    refined, sibling = comparison["rows"][:2]
    return (
        f"{kind}: {refined['label']}, has a mean KLD of {refined['kld_mean']:.5f} nats, {sibling['label']}, "
        f"{sibling['kld_mean']:.5f}; siblings are taken where the first is above {1 + comparison['margin']:g} times "
        f"the second by more than {Z_LIMIT:g} standard errors, and it is {signed(comparison['excess'], 5)} from there"
    )


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    comparison = read_result(snakemake.input.table)
    kind = choose(comparison["excess"])
    why = reason(comparison, kind)
    log.info("%s", why)
    write_result(snakemake.output.choice, {"kind": kind, "why": why} | comparison, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
