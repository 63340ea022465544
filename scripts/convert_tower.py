"""Convert the checkpoint's vision tower to an F16 mmproj, and prove that it is in it."""

import logging
import re
from pathlib import Path
from typing import Any

from convert_checkpoint import converter_command, converter_environment, run_converter
from phase_twin.checkpoint import check_side_files, read_checkpoint
from phase_twin.errors import UserError
from phase_twin.files import atomic_output, write_digest
from phase_twin.origin import add_origin
from phase_twin.rule import run_rule
from prune_dual import Gguf

log = logging.getLogger("phase_twin")

LEAVE_OUT = "or set model.vision_tower: false, to have none"


def check_tower(path: Path, depth: int | None) -> int:
    """Return the number of blocks of the vision tower in an mmproj.

    The converter ends well also where it found no tensor of it.

    Parameters
    ----------
    depth
        blocks that config.json declares; None where it does not say.

    Raises
    ------
    UserError
        if it has none, or not as many as it should.
    """
    names = [tensor.name for tensor in Gguf.read(path).tensors if tensor.name.startswith("v.")]
    blocks = {int(match[1]) for name in names if (match := re.match(r"v\.blk\.(\d+)\.", name))}
    if not blocks or (depth is not None and len(blocks) != depth):
        wanted = f"{depth} blocks" if depth is not None else "blocks"
        raise UserError(
            f"{path.name}: {len(blocks)} blocks of a vision tower came out of the converter, expected {wanted}; "
            f"download the weights again, {LEAVE_OUT}"
        )
    return len(blocks)


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    tree, folder = Path(snakemake.params.tree), Path(snakemake.params.checkpoint)
    checkpoint = read_checkpoint(folder)
    check_side_files(checkpoint, tower=True)
    options = ("--mmproj", "--outtype", "f16", "--model-name", snakemake.params.title)
    with atomic_output(snakemake.output.mmproj) as partial:
        command = converter_command(tree, snakemake.params.tokenizer_pre, folder, partial, *options)
        run_converter(command, snakemake.log.tool, folder, env=converter_environment(tree))
        vision = checkpoint.config.get("vision_config") or {}
        blocks = check_tower(partial, vision.get("depth", vision.get("num_hidden_layers")))
        add_origin(partial, snakemake.params.license, snakemake.params.repo)
    write_digest(snakemake.output.mmproj, snakemake.output.digest)
    log.info("%s: a vision tower of %d blocks", snakemake.output.mmproj, blocks)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
