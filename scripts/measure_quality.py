"""Measure one model, or one phase of the twin, against the reference logits."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.engine import BATCH, ENVIRONMENT, override
from phase_twin.errors import UserError
from phase_twin.experts import EXPERTS
from phase_twin.results import write_result
from phase_twin.rule import run_rule, run_tool
from prune_dual import Gguf, Twin

NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
# row key (and that of its error) -> the line of llama-perplexity's summary
STATISTICS = {
    ("kld_mean", "kld_mean_err"): rf"Mean +KLD: +{NUMBER} ± +{NUMBER}",
    ("kld_median",): rf"Median +KLD: +{NUMBER}",
    ("kld_p999",): rf"99\.9% +KLD: +{NUMBER}",
    ("top1", "top1_err"): rf"Same top p: +{NUMBER} ± +{NUMBER}",
    ("ppl_ratio", "ppl_ratio_err"): rf"Mean PPL\(Q\)/PPL\(base\) +: +{NUMBER} ± +{NUMBER}",
}


def parse_summary(output: str) -> dict[str, float]:
    """Read llama-perplexity's KLD summary; top1 is in percent, KLD in nats per token.

    Raises
    ------
    UserError
        naming the line that is missing.
    """
    row: dict[str, float] = {}
    for keys, pattern in STATISTICS.items():
        match = re.search(pattern, output)
        if not match:
            raise UserError(f"llama-perplexity's summary has no line for {keys[0]}; were there at least 100 positions?")
        row |= dict(zip(keys, map(float, match.groups()), strict=True))
    return row


def weight_facts(path: str, variant: int | None) -> dict[str, Any]:
    """Bytes of all weights and bits per weight of the routed experts, as loaded.

    Parameters
    ----------
    variant
        the phase, if `path` is a twin; None for a plain model.
    """
    model = Gguf.read(path)
    tensors = model.tensors if variant is None else Twin.of(model).phase(variant)
    experts = [tensor for tensor in tensors if EXPERTS.fullmatch(tensor.name)]
    bits = 8 * sum(tensor.nbytes for tensor in experts)
    weights = sum(tensor.n_elements for tensor in experts)
    return {"bytes": sum(tensor.nbytes for tensor in tensors), "bpw_experts": round(bits / weights, 4)}


def measure(
    program: str, model: str | Path, flags: Sequence[str], logits: str, n_ctx: int, chunks: int, threads: int, log: str
) -> dict[str, float]:
    """Run llama-perplexity against reference logits and return its summary.

    Parameters
    ----------
    flags
        what makes the model of the file, where that is a twin.
    log
        the file for the program's output.
    """
    command = [program, "-m", model, "-c", str(n_ctx), *BATCH, "-t", str(threads), *flags]
    command += ["--kl-divergence", "--kl-divergence-base", logits]
    output = run_tool(command, log, env=ENVIRONMENT, progress=r"\n *(?P<done>\d+) +\d", total=chunks)
    return parse_summary(output)


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    model, variant, chunks = snakemake.input.model, snakemake.params.variant, snakemake.params.chunks
    flags = override("default", variant) if variant is not None else []
    row = {
        "file": model,
        "label": snakemake.params.label,
        **weight_facts(model, variant),
        "reference": snakemake.params.reference,
        "chunks": chunks,
        "n_ctx": snakemake.params.n_ctx,
        **measure(
            snakemake.input.program,
            model,
            flags,
            snakemake.input.logits,
            snakemake.params.n_ctx,
            chunks,
            snakemake.threads,
            snakemake.log.tool,
        ),
    }
    write_result(snakemake.output.row, row, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
