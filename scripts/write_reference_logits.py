"""Write the reference model's logits over the evaluation text: what every KLD is measured against."""

from typing import Any

from phase_twin.engine import BATCH, ENVIRONMENT
from phase_twin.files import atomic_output
from phase_twin.rule import run_rule, run_tool


def main(snakemake: Any) -> None:
    """Map the rule to llama-perplexity."""
    # the base file's chunk count rules later runs, so the limit is set here
    chunks = snakemake.params.chunks
    with atomic_output(snakemake.output.logits) as partial:
        command = [snakemake.input.program, "-m", snakemake.input.model, "-f", snakemake.input.corpus]
        command += ["-c", str(snakemake.params.n_ctx), "--chunks", str(chunks), *BATCH]
        command += ["-t", str(snakemake.threads), "--kl-divergence-base", partial]
        run_tool(command, snakemake.log.tool, env=ENVIRONMENT, progress=r"\[(?P<done>\d+)\]", total=chunks)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
