"""Measure one model, or one phase of the twin, against the reference logits: whole, in parts, or from such parts.

Beside the row of statistics goes what was measured at every position, for errors and for differences of rows.
"""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.documents import documents_of, read_tokens
from phase_twin.engine import BATCH, ENVIRONMENT, override
from phase_twin.errors import UserError
from phase_twin.experts import routed_experts
from phase_twin.files import atomic_output, write_text
from phase_twin.positions import Positions
from phase_twin.quality import describe
from phase_twin.results import write_result
from phase_twin.rule import run_rule, run_tool
from phase_twin.run_facts import CPU, TELL_DEVICES, devices_and_threads, require_card
from prune_dual import Gguf, Twin

log = logging.getLogger("phase_twin")

NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
# row key (and that of its error, which takes tokens for independent) -> the line of llama-perplexity's summary
STATISTICS = {
    ("kld_mean", "kld_mean_err_printed"): rf"Mean +KLD: +{NUMBER} ± +{NUMBER}",
    ("kld_median",): rf"Median +KLD: +{NUMBER}",
    ("kld_p999",): rf"99\.9% +KLD: +{NUMBER}",
    ("top1", "top1_err_printed"): rf"Same top p: +{NUMBER} ± +{NUMBER}",
    ("ppl_ratio", "ppl_ratio_err_printed"): rf"Mean PPL\(Q\)/PPL\(base\) +: +{NUMBER} ± +{NUMBER}",
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
    experts = routed_experts(model, tensors)
    bits = 8 * sum(tensor.nbytes for tensor in experts)
    weights = sum(tensor.n_elements for tensor in experts)
    return {"bytes": sum(tensor.nbytes for tensor in tensors), "bpw_experts": round(bits / weights, 4)}


def measure(snakemake: Any, model: str | Path, flags: Sequence[str]) -> dict[str, Any] | None:
    """Run llama-perplexity against the rule's reference logits, write every position's values and describe them.

    With `output.part` the run is one over a range of chunks, which saves there, and in `output.ran`, what is to be
    merged, and None is returned.

    Parameters
    ----------
    flags
        what makes the model of the file, where that is a twin.
    """
    given, params = snakemake.input, snakemake.params
    command = [given.program, "-m", model, "-c", str(params.n_ctx), *BATCH, "-t", str(snakemake.threads), *flags]
    command += [*TELL_DEVICES, "--kl-divergence", "--kl-divergence-base", given.logits]

    def run(*more: str | Path) -> tuple[str, dict[str, Any]]:
        progress, total = r"\n *(?P<done>\d+) +\d", params.chunks
        told = run_tool([*command, *more], snakemake.log.tool, env=ENVIRONMENT, progress=progress, total=total)
        facts = devices_and_threads(told)
        require_card(params.backend, facts["device"], facts["device"] != CPU)
        return told, facts

    if not (part := snakemake.output.get("part")):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "all.kldpart"
            told, facts = run("-o", whole)
            return facts | keep(snakemake, model, told, [whole])
    with atomic_output(part) as partial:
        _, facts = run("--from-chunk", str(params.first_chunk), "--chunks", str(params.chunks), "-o", partial)
    write_text(snakemake.output.ran, json.dumps(facts) + "\n")
    return None


def merge(snakemake: Any, model: str | Path) -> dict[str, Any]:
    """Put the parts of a run together as `measure` does for a whole one; llama-perplexity does not read the model."""
    parts, ran = snakemake.input.parts, [json.loads(Path(path).read_text()) for path in snakemake.input.ran]
    command = [snakemake.input.program, "-m", model, "--kl-divergence", "--in-file", ",".join(parts)]
    return ran_on(ran) | keep(snakemake, model, run_tool(command, snakemake.log.tool), parts)


def ran_on(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Device and threads of all parts; where nodes differ, those of each, in a list."""
    found = {key: [part[key] for part in parts] for key in parts[0]}
    return {key: values[0] if values.count(values[0]) == len(values) else values for key, values in found.items()}


def keep(snakemake: Any, model: str | Path, summary: str, parts: Sequence[str | Path]) -> dict[str, Any]:
    """Write the values of all parts to `output.positions` and return what was measured on how much of a text."""
    params = snakemake.params
    documents = documents_of(snakemake.input.logits, model, params.documents)
    positions = Positions.read_parts(parts, params.n_ctx, documents)
    positions.save(snakemake.output.positions)
    facts = text_facts(snakemake.input.logits, len(positions.kld))
    if facts["chunks"] < params.chunks:
        log.warning("%d chunks measured, %d were asked for: the text has no more", facts["chunks"], params.chunks)
    return {**facts, "chunks_asked": params.chunks} | parse_summary(summary) | describe(positions)


def text_facts(logits: str, chunks: int) -> dict[str, Any]:
    """How much of which text so many chunks of the reference logits are: also its tokens, and their SHA-256."""
    tokens = read_tokens(logits)[:chunks]
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()
    return {"chunks": len(tokens), "n_ctx": tokens.shape[1], "tokens": tokens.size, "tokens_sha256": digest}


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    model, params = snakemake.input.model, snakemake.params
    if snakemake.input.get("parts"):
        summary = merge(snakemake, model)
    else:
        flags = override("default", params.variant) if params.variant is not None else []
        summary = measure(snakemake, model, flags)
    if summary is None:
        return
    row = {
        "file": model,
        "label": params.label,
        **weight_facts(model, params.variant),
        "reference": params.reference,
        **summary,
    }
    write_result(snakemake.output.row, row, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
