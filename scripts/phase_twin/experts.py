"""What the names of routed-expert tensors say."""

import re
from collections.abc import Iterable

from prune_dual import Gguf, Tensor, mtp_blocks

from .errors import UserError

EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight")
CLASSES = ("gate", "up", "down")


def layer_and_class(name: str) -> tuple[int, str]:
    """Split the name of a routed-expert tensor: its layer, and "gate", "up" or "down".

    Raises
    ------
    UserError
        if it is the name of another tensor.
    """
    match = EXPERTS.fullmatch(name)
    if not match:
        raise UserError(f"{name}: not a routed-expert tensor, cannot be ranked")
    return int(match[1]), match[2]


def routed_experts(model: Gguf, tensors: Iterable[Tensor] | None = None) -> list[Tensor]:
    """Routed-expert tensors among `tensors` of `model`, by default all; not an MTP head's, which has no phases."""
    head = mtp_blocks(model)
    found = ((tensor, EXPERTS.fullmatch(tensor.name)) for tensor in (model.tensors if tensors is None else tensors))
    return [tensor for tensor, match in found if match and int(match[1]) not in head]


def expert_name(layer: int, tensor_class: str) -> str:
    """Name of a routed-expert tensor."""
    return f"blk.{layer}.ffn_{tensor_class}_exps.weight"


def units(layers: Iterable[int], tie_gate_up: bool) -> dict[str, list[str]]:
    """What is promoted together or not at all: label -> names of the groups, layer by layer."""
    classes = {"gate-up": ("gate", "up"), "down": ("down",)} if tie_gate_up else {name: (name,) for name in CLASSES}
    return {
        f"{layer}-{label}": [expert_name(layer, name) for name in members]
        for layer in layers
        for label, members in classes.items()
    }
