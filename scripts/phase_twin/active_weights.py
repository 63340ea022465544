"""The weights of a mixture of experts that one token passes through."""

from collections.abc import Callable

from prune_dual import Gguf, Tensor


def of_one_token(model: Gguf, size: Callable[[Tensor], int]) -> float:
    """Sum of `size` over what one token is multiplied with: of the experts those that it is sent to."""
    experts, used = (model.kv[f"qwen35moe.expert{part}_count"].value for part in ("", "_used"))
    share = {True: used / experts, False: 1}
    return sum(
        size(tensor) * share["_exps." in tensor.name] for tensor in model.tensors if tensor.name != "token_embd.weight"
    )
