"""Collect the importance matrix, mean squared activations per input column and expert, and covariances if asked for."""

from contextlib import ExitStack
from typing import Any

from phase_twin.engine import BATCH
from phase_twin.errors import UserError
from phase_twin.files import atomic_output, write_digest
from phase_twin.rule import run_rule
from phase_twin.run_facts import run_over_text
from prune_dual import Gguf, GgufError


def main(snakemake: Any) -> None:
    """Map the rule to llama-imatrix."""
    n_ctx, chunks = snakemake.params.n_ctx, snakemake.params.chunks
    first, corpus = snakemake.params.get("first_chunk"), snakemake.input.corpus
    with ExitStack() as outputs:
        partial = outputs.enter_context(atomic_output(snakemake.output.imatrix))
        # llama-imatrix chooses the format by the ending
        target = partial.with_suffix(".partial.gguf")
        outputs.callback(target.unlink, missing_ok=True)
        command = [snakemake.input.program, "-m", snakemake.input.model, "-f", corpus, "-o", target]
        command += ["--no-ppl", "-c", str(n_ctx), *BATCH, "-t", str(snakemake.threads)]
        command += ["--chunks", str(chunks)] if chunks else []
        command += ["--from-chunk", str(first)] if first else []
        if covariance := snakemake.output.get("covariance"):
            command += ["--covariance", outputs.enter_context(atomic_output(covariance))]
        taken = {"n_ctx": n_ctx, "chunks": chunks, "first": first or 0, "shared": first is not None}
        run_over_text(command, snakemake.log.tool, corpus, setting="imatrix.chunks", **taken)
        try:
            Gguf.read(target)  # llama-imatrix ends well even where it could not write all
        except GgufError as error:
            raise UserError(f"{snakemake.output.imatrix} is not complete: {error}") from error
        target.rename(partial)
    if digest := snakemake.output.get("digest"):  # a part has none
        write_digest(snakemake.output.imatrix, digest)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
