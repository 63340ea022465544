"""Write the reference model's logits over a text: what every KLD is measured against.

snakemake.params: n_ctx, chunks, setting (the key that asks for so many), shared (whether jobs share the chunks).
"""

import struct
from pathlib import Path
from typing import Any

from phase_twin.engine import BATCH
from phase_twin.errors import UserError
from phase_twin.files import atomic_output
from phase_twin.rule import run_rule
from phase_twin.run_facts import run_over_text


def logits_nbytes(path: Path) -> int:
    """Size in bytes that a file of llama-perplexity's logits must have, by its own head.

    Per chunk there are its tokens and, for the predictions of its second half, one row of 16-bit logits each; behind
    all of them a magic of 8 bytes and 8 for each prediction: the exact likelihood and the most likely token.
    """
    with open(path, "rb") as file:
        head = file.read(20)
    if len(head) < 20:
        return 20
    n_ctx, n_vocab, chunks = struct.unpack_from("<III", head, 8)
    row = 2 * (2 * ((n_vocab + 1) // 2) + 4)
    predictions = n_ctx - 1 - n_ctx // 2
    return 20 + 8 + chunks * (4 * n_ctx + predictions * (row + 8))


def main(snakemake: Any) -> None:
    """Map the rule to llama-perplexity."""
    # the base file's chunk count rules later runs, so the limit is set here
    params, corpus = snakemake.params, snakemake.input.corpus
    with atomic_output(snakemake.output.logits) as partial:
        command = [snakemake.input.program, "-m", snakemake.input.model, "-f", corpus]
        command += ["-c", str(params.n_ctx), "--chunks", str(params.chunks), *BATCH]
        command += ["-t", str(snakemake.threads), "--kl-divergence-base", partial]
        taken = {name: params[name] for name in ("n_ctx", "chunks", "setting", "shared")}
        run_over_text(command, snakemake.log.tool, corpus, **taken)
        # llama-perplexity ends well even where it could not write all
        found, needed = partial.stat().st_size, logits_nbytes(partial)
        if found != needed:
            raise UserError(f"{snakemake.output.logits} is not complete: it has {found} of {needed} bytes")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
