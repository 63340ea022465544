"""Convert the HF checkpoint to a BF16 GGUF with layer counts that its tensors prove."""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

from phase_twin.chat_template import template_faults
from phase_twin.checkpoint import look_at, pre_tokenizer_of, read_checkpoint
from phase_twin.errors import UserError
from phase_twin.files import atomic_output, write_digest
from phase_twin.rule import run_rule, run_tool
from prune_dual import Gguf
from run_converter import REFUSED, UNSUPPORTED

log = logging.getLogger("phase_twin")

RUN_CONVERTER = Path(__file__).with_name("run_converter.py")


def converter_command(tree: Path, pre: str | None, checkpoint: Path, out: Path, *options: str) -> list[str | Path]:
    """Return the command that converts `checkpoint` to `out`."""
    return [sys.executable, RUN_CONVERTER, tree, pre or "-", "--", checkpoint, "--outfile", out, *options]


def converter_environment(tree: Path) -> dict[str, str]:
    """Variables the converter needs: its own modules, and one thread (more only fight over the cores)."""
    return {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "gguf-py")]), "OMP_NUM_THREADS": "1"}


def run_converter(command: list[str | Path], tool_log: str, checkpoint: Path, **options: Any) -> None:
    """Run the converter; what it refuses is one line, with the setting that mends it where there is one.

    Raises
    ------
    UserError
        if it fails.
    """
    try:
        run_tool(command, tool_log, **options)
    except UserError as error:
        if lacking := re.search(rf"^ *(?:{UNSUPPORTED}|ERROR:hf-to-gguf:(?=Model ))(.*)$", str(error), re.MULTILINE):
            raise UserError(
                f"{checkpoint}: llama.cpp's converter cannot read it: {lacking[1]}; "
                "where weights are quantized, take the checkpoint in BF16"
            ) from error
        reason = re.search(rf"^ *{REFUSED}(.*)$", str(error), re.MULTILINE)
        if not reason:
            raise
        name = pre_tokenizer_of(checkpoint)
        remedy = f"set model.tokenizer_pre: {name}, which has its rule" if name else "set model.tokenizer_pre"
        raise UserError(f"{checkpoint / 'tokenizer.json'}: {reason[1]}; {remedy}") from error


def nextn_options(folder: Path, keep: bool = False) -> tuple[str, ...]:
    """Return the converter's option that leaves out an MTP head: it is not wanted, or declared without weights.

    The converter believes the declaration: counts and lists by block would be those of one block too many. Of a class
    that can have a head it wants one even where none is declared.
    """
    checkpoint = read_checkpoint(folder)
    if keep and checkpoint.has_head:
        return ()
    known = checkpoint.model_class.startswith(("Qwen3_5", "Qwen3Next"))
    return ("--no-nextn",) if known or checkpoint.mtp or checkpoint.declares_head else ()


def count_blocks(tensor_names: list[str]) -> tuple[int, int]:
    """Count what is there: (all blocks, those of them that are NextN / MTP blocks).

    Raises
    ------
    UserError
        if the numbering has a gap.
    """
    blocks, nextn = set(), set()
    for name in tensor_names:
        if match := re.match(r"blk\.(\d+)\.(nextn\.)?", name):
            blocks.add(int(match[1]))
            if match[2]:
                nextn.add(int(match[1]))
    if missing := set(range(len(blocks))) - blocks:
        raise UserError(f"the tensor list has no blk.{min(missing)}; is the checkpoint complete?")
    return len(blocks), len(nextn)


def mend_block_count(path: Path) -> list[str]:
    """Make block_count and nextn_predict_layers agree with the tensor list, in place.

    llama-quantize accepts a file in which they do not, but it does not load.

    Returns
    -------
    list of str
        what was changed, for the log; empty (and the file untouched) if nothing had to be.

    Raises
    ------
    UserError
        if something else of the file cannot be right with the blocks that are there.
    """
    model = Gguf.read(path)
    arch = model.kv["general.architecture"].value
    blocks, nextn = count_blocks([tensor.name for tensor in model.tensors])
    recurrent = model.kv.get(f"{arch}.attention.recurrent_layers")
    if recurrent is not None and len(recurrent.value) != blocks:
        raise UserError(
            f"{path}: {recurrent.name} has {len(recurrent.value)} entries, the tensors have {blocks} blocks"
        )
    changes = []
    with path.open("r+b") as file:
        for key, proven in ((f"{arch}.block_count", blocks), (f"{arch}.nextn_predict_layers", nextn)):
            entry = model.kv.get(key)
            if entry is None:
                if proven:
                    raise UserError(f"{path}: {key} is missing, though the tensors have {proven}")
                continue
            if entry.value != proven:
                if entry.type != "u32":
                    raise UserError(f"{path}: {key} is of type {entry.type}, expected u32")
                # the value ends the entry, and an u32 keeps its place and size
                file.seek(entry.raw.offset + entry.raw.nbytes - 4)
                file.write(proven.to_bytes(4, "little"))
                changes.append(f"{key} {entry.value} -> {proven}")
    return changes


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    tree, checkpoint = Path(snakemake.params.tree), Path(snakemake.params.checkpoint)
    environment = converter_environment(tree)
    pre = snakemake.params.tokenizer_pre
    keep = snakemake.params.mtp == "keep"
    look_at(checkpoint, snakemake.params.layers, tower=False, head=keep)
    with atomic_output(snakemake.output.model) as partial:
        options = ("--outtype", "bf16", "--model-name", snakemake.params.title, *nextn_options(checkpoint, keep))
        command = converter_command(tree, pre, checkpoint, partial, *options)
        bar = {"progress": r"Writing: +(?P<done>\d+)%", "total": 100}
        run_converter(command, snakemake.log.tool, checkpoint, env=environment, **bar)
        for change in mend_block_count(partial):
            log.info("metadata set after the tensor list: %s", change)
        for fault in template_faults(Gguf.read(partial)):
            log.warning("%s: %s", snakemake.output.model, fault)
    write_digest(snakemake.output.model, snakemake.output.digest)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
