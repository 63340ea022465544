"""Licence and origin of the weights as the general.* keys of a GGUF: readers of the file alone see no model card."""

from pathlib import Path

from gguf.utility import model_weight_count_rounded_notation

from prune_dual import Gguf, Kv, encode_kv, write_gguf
from prune_dual.transport import hub

from .version import VERSION


def origin_kv(model: Gguf, spdx: str, repo: str | None) -> list[Kv]:
    """The keys that `model` lacks; what the checkpoint's card had brought into it stays as it is.

    Parameters
    ----------
    model
        a plain file: its size label counts each weight once, as one phase of a twin does.
    spdx
        licence of the weights, an SPDX id.
    repo
        OWNER/NAME of the original weights on the hub; None for a checkpoint of the user's own.
    """
    keys: dict[str, str | int] = {"general.quantized_by": f"Phase Twin {VERSION}"}
    if "general.license" not in model.kv:
        keys["general.license"] = spdx
        keys["general.license.link"] = f"https://spdx.org/licenses/{spdx}.html"
    n_weights = sum(tensor.n_elements for tensor in model.tensors)
    keys["general.size_label"] = model_weight_count_rounded_notation(n_weights, min_digits=2)
    if repo is not None:
        page = f"{hub.HUB}/{repo}"  # of the original, wherever it was fetched from
        keys["general.source.url"] = keys["general.source.repo_url"] = page
        if "general.base_model.count" not in model.kv:
            organization, _, name = repo.partition("/")
            keys["general.base_model.count"] = 1
            keys["general.base_model.0.name"] = name.replace("-", " ")
            keys["general.base_model.0.organization"] = organization
            keys["general.base_model.0.repo_url"] = page
    return [
        encode_kv(key, "str" if isinstance(value, str) else "u32", value)
        for key, value in keys.items()
        if key not in model.kv
    ]


def add_origin(path: Path, spdx: str, repo: str | None) -> None:
    """Write the keys of `origin_kv` into the file at `path`, which is replaced."""
    model, said = Gguf.read(path), path.with_name(f"{path.name}.said")
    kv = [*model.kv.values(), *origin_kv(model, spdx, repo)]
    write_gguf(said, kv, model.tensors, alignment=model.alignment, force=True)
    said.replace(path)
