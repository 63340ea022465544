"""A nested twin, split from a model whose experts are IQ4_A770."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prune_dual import FILE_TYPES, IQ3_A770, IQ4_A770, KEY_FILE_TYPE, Gguf, Tensor, split_refined

from .errors import UserError


def read_variants(paths: Sequence[str | Path]) -> list[Gguf]:
    """The variants as models of their own, small one first: of a nested twin both are seen in one file."""
    models = [Gguf.read(path) for path in paths]
    if len(models) > 1:
        return models
    return [replace(models[0], tensors=bases_of(models[0])), *models]


def find_refined(model: Gguf) -> list[str]:
    """Names of the tensors of IQ4_A770, in file order; raises a UserError if there is none."""
    groups = [tensor.name for tensor in model.tensors if tensor.type == IQ4_A770]
    if not groups:
        raise UserError(f"{model.path}: no tensor is IQ4_A770, nothing to pack; siblings are packed of several files")
    return groups


def bases_of(model: Gguf) -> list[Tensor]:
    """The tensors of variant 0: the base of each that is IQ4_A770, the others as they are."""
    return [split_refined(tensor)[0] if tensor.type == IQ4_A770 else tensor for tensor in model.tensors]


def planes_of(model: Gguf, order: Sequence[str]) -> list[Tensor]:
    """The planes in the order of a twin's file: first those of the tensors that `order` names, then the rest."""
    planes = {tensor.name: split_refined(tensor)[1] for tensor in model.tensors if tensor.type == IQ4_A770}
    return [planes[name] for name in dict.fromkeys([*order, *planes]) if name in planes]


def base_file_type(model: Gguf) -> int | None:
    """The file type of variant 0 of the twin; None where the model says none."""
    own = model.get(KEY_FILE_TYPE, "u32")
    return FILE_TYPES[IQ3_A770] if own == FILE_TYPES[IQ4_A770] else own
