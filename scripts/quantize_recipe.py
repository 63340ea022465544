"""Quantize the BF16 model after a recipe: types by class of tensors, for experts also by layer."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.engine import ENVIRONMENT
from phase_twin.errors import UserError
from phase_twin.experts import EXPERTS
from phase_twin.files import atomic_output, write_digest
from phase_twin.rule import run_rule, run_tool
from prune_dual import Gguf, mtp_blocks

log = logging.getLogger("phase_twin")

MTP_TYPE = "Q8_0"
UNQUANTIZED = {"F32", "F16", "BF16"}

# class of the rest -> its tensors, as llama-quantize searches names
REST_CLASSES = {
    "token_embd": r"^token_embd\.",
    "output": r"^output\.",
    "attention": r"attn_(q|k|v|output)\.",
    "delta_net": r"(attn_(qkv|gate)|ssm_out)\.",
    "shared_experts": r"_shexp\.",
}


def raised_layers(types: dict[str, Any], ranking: Sequence[int]) -> list[int]:
    """Return the layers of one expert class that get the higher type, ascending.

    Parameters
    ----------
    types
        the class's entry of a recipe.
    ranking
        layers of that class, most important first; used where the recipe says `top`.

    Raises
    ------
    UserError
        if the recipe names more layers than there are, or one that is not there.
    """
    chosen = types["layers"] or ranking[: types["top"] or 0]
    if missing := set(chosen) - set(ranking):
        raise UserError(f"the recipe raises layer {min(missing)}, but the model has layers 0 to {max(ranking)}")
    if len(ranking) < (types["top"] or 0):
        raise UserError(f"the recipe raises the top {types['top']} layers, but the model has {len(ranking)}")
    return sorted(chosen)


def quantize_arguments(
    recipe: dict[str, Any], ranking: dict[str, list[int]], head: Sequence[int] = ()
) -> tuple[list[str], str]:
    """Return llama-quantize's options and its file type for a recipe.

    Parameters
    ----------
    recipe
        `experts` (class -> types), `rest`, `rest_classes`, `strict` and `refined_weight`, as in the configuration.
    ranking
        expert class -> layers, most important first.
    head
        blocks of an MTP head, which the imatrix knows nothing of: they are stored at MTP_TYPE.
    """
    # the first match wins
    patterns = [(rf"^blk\.({'|'.join(map(str, head))})\.", MTP_TYPE)] if head else []
    experts, rest, rest_classes = recipe["experts"], recipe["rest"], recipe["rest_classes"]
    kinds = {kind for types in experts.values() for kind in (types["type"], types["raised"]) if kind}
    if kinds in ({"IQ3_A770"}, {"IQ4_A770"}) and rest == "Q6_K" and not rest_classes:
        # these mixes are file types of their own
        return _options(patterns), kinds.pop()
    patterns += [(REST_CLASSES[name], kind) for name, kind in rest_classes.items()]
    for name, types in experts.items():
        if layers := raised_layers(types, ranking[name]):
            numbers = "|".join(map(str, layers))
            patterns.append((rf"blk\.({numbers})\.ffn_{name}_exps", types["raised"]))
        # all layers come after those that are raised
        patterns.append((f"ffn_{name}_exps", types["type"]))
    return _options(patterns), rest


def _options(patterns: Sequence[tuple[str, str]]) -> list[str]:
    return [flag for pattern, kind in patterns for flag in ("--tensor-type", f"{pattern}={kind.lower()}")]


def asked_type(name: str, recipe: dict[str, Any], ranking: dict[str, list[int]], head: Sequence[int]) -> str:
    """The type that a recipe asks for, of one tensor."""
    if (block := re.match(r"blk\.(\d+)\.", name)) and int(block[1]) in head:
        return MTP_TYPE
    if match := EXPERTS.fullmatch(name):
        types = recipe["experts"][match[2]]
        raised = raised_layers(types, ranking[match[2]])
        return types["raised"] if int(match[1]) in raised else types["type"]
    classes = recipe["rest_classes"].items()
    return next((kind for label, kind in classes if re.search(REST_CLASSES[label], name)), recipe["rest"])


def tell_types(model: Gguf, recipe: dict[str, Any], ranking: dict[str, list[int]]) -> list[str]:
    """Say, a line per class of tensors, where llama-quantize took other types than the recipe asks for.

    It does so where rows do not fit the blocks of a type, and for a few tensors by a rule of its own. What it leaves
    unquantized beside the experts has no type in a recipe.

    Raises
    ------
    UserError
        if the recipe is strict and the tensors are routed experts.
    """
    others: Counter[tuple[str, str, str, int]] = Counter()
    head = mtp_blocks(model)
    for tensor in model.tensors:
        asked = asked_type(tensor.name, recipe, ranking, head)
        left = tensor.type_name in UNQUANTIZED and not EXPERTS.fullmatch(tensor.name)
        if tensor.type_name != asked and not left:
            others[re.sub(r"blk\.\d+\.", "", tensor.name), asked, tensor.type_name, tensor.shape[0]] += 1
    lines = []
    for (name, asked, found, columns), count in others.items():
        reason = f"{columns} columns are no multiple of 256" if columns % 256 else "llama-quantize's own choice"
        line = f"{name}: {found} in place of {asked} in {count} tensors: {reason}"
        if recipe["strict"] and "_exps" in name:
            raise UserError(f"{line}; give it a type of 32-blocks (Q4_0, IQ4_NL, Q8_0), or leave `strict` out")
        lines.append(line)
    return lines


def refuse_quantized(path: str) -> None:
    """Raise a UserError if the source holds a quantized tensor: errors would add up unseen."""
    for tensor in Gguf.read(path).tensors:
        if tensor.type_name not in UNQUANTIZED:
            raise UserError(f"{path}: {tensor.name} is {tensor.type_name}; variants are made from BF16 only")


def main(snakemake: Any) -> None:
    """Map the rule to llama-quantize."""
    refuse_quantized(snakemake.input.model)
    ranking = json.loads(Path(snakemake.input.ranking).read_text())
    head = mtp_blocks(Gguf.read(snakemake.input.model))
    options, file_type = quantize_arguments(snakemake.params.recipe, ranking, head)
    with atomic_output(snakemake.output.gguf, resumes=True) as partial:
        command = [snakemake.input.program, "--resume", "--imatrix", snakemake.input.imatrix, *options]
        if covariance := snakemake.input.get("covariance"):
            weight = snakemake.params.recipe["refined_weight"]
            command += ["--covariance", covariance, "--lambda", str(weight)]
        command += [snakemake.input.model, partial, file_type, str(snakemake.threads)]
        run_tool(command, snakemake.log.tool, env=ENVIRONMENT, progress=r"\[ *(?P<done>\d+)/ *(?P<total>\d+)\]")
        for line in tell_types(Gguf.read(partial), snakemake.params.recipe, ranking):
            log.warning("%s: %s", snakemake.output.gguf, line)
    write_digest(snakemake.output.gguf, snakemake.output.digest)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
