"""Quantize the BF16 model after a recipe: one type per class of expert tensors, one for the rest."""

from typing import Any

from phase_twin.engine import ENVIRONMENT
from phase_twin.errors import UserError
from phase_twin.files import atomic_output
from phase_twin.rule import run_rule, run_tool
from prune_dual import Gguf

UNQUANTIZED = {"F32", "F16", "BF16"}


def quantize_arguments(experts: dict[str, str], rest: str) -> tuple[list[str], str]:
    """Return llama-quantize's options and its file type for a recipe.

    Parameters
    ----------
    experts
        tensor class ("gate", "up", "down") -> type name.
    rest
        type of everything else.
    """
    if set(experts.values()) == {"IQ3_A770"} and rest == "Q6_K":
        # this mix is a file type of its own
        return [], "IQ3_A770"
    options = []
    for tensor_class, quant_type in experts.items():
        options += ["--tensor-type", f"ffn_{tensor_class}_exps={quant_type.lower()}"]
    return options, rest


def refuse_quantized(path: str) -> None:
    """Raise a UserError if the source holds a quantized tensor: errors would add up unseen."""
    for tensor in Gguf.read(path).tensors:
        if tensor.type_name not in UNQUANTIZED:
            raise UserError(f"{path}: {tensor.name} is {tensor.type_name}; variants are made from BF16 only")


def main(snakemake: Any) -> None:
    """Map the rule to llama-quantize."""
    refuse_quantized(snakemake.input.model)
    options, file_type = quantize_arguments(snakemake.params.experts, snakemake.params.rest)
    with atomic_output(snakemake.output.gguf) as partial:
        command = [snakemake.input.program, "--imatrix", snakemake.input.imatrix, *options]
        command += [snakemake.input.model, partial, file_type, str(snakemake.threads)]
        run_tool(command, snakemake.log.tool, env=ENVIRONMENT, progress=r"\[ *(?P<done>\d+)/ *(?P<total>\d+)\]")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
