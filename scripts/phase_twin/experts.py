"""What the names of routed-expert tensors say."""

import re

from .errors import UserError

EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight")


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
