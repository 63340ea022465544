"""Keys that a file with tensors of our types carries: a reader of other tables would make other weights of them."""

import logging
from collections.abc import Iterable

from ..errors import GgufError
from .entries import Kv, encode_kv
from .reader import Gguf
from .tensor_types import (
    IQ3_A770,
    IQ3_A770_CODEBOOK,
    IQ3_A770_R,
    IQ3_A770_R_TABLES,
    IQ3_A770_R_VERSION,
    IQ3_A770_VERSION,
    IQ4_A770,
    KEY_IQ3_A770_CODEBOOK,
    KEY_IQ3_A770_R_TABLES,
    KEY_IQ3_A770_R_VERSION,
    KEY_IQ3_A770_VERSION,
)

log = logging.getLogger("prune-dual")

_BASE = (
    (KEY_IQ3_A770_VERSION, "u32", IQ3_A770_VERSION),
    (KEY_IQ3_A770_CODEBOOK, "[i8]", list(IQ3_A770_CODEBOOK)),
)
_PLANE = (
    (KEY_IQ3_A770_R_VERSION, "u32", IQ3_A770_R_VERSION),
    (KEY_IQ3_A770_R_TABLES, "[i8]", list(IQ3_A770_R_TABLES)),
)
REFINED = frozenset({IQ3_A770_R, IQ4_A770})
TYPE_KEYS = tuple(key for key, _, _ in _BASE + _PLANE)


def _entries(types: Iterable[int]) -> tuple[tuple[str, str, int | list[int]], ...]:
    types = set(types)
    if types & REFINED:
        return _BASE + _PLANE
    return _BASE if IQ3_A770 in types else ()


def type_kv(types: Iterable[int]) -> list[Kv]:
    """The entries that a file with tensors of these types must carry."""
    return [encode_kv(*entry) for entry in _entries(types)]


def check_types(gguf: Gguf) -> None:
    """Refuse a file whose types of ours differ from those known here.

    Files of IQ3_A770 alone were published before there were keys: where they do not say, there is a warning.
    """
    types = {tensor.type for tensor in gguf.tensors}
    for key, kind, ours in _entries(types):
        theirs = gguf.get(key, kind)
        if theirs is None and types & REFINED:
            raise GgufError(f"{gguf.path}: key {key!r} is missing, which a file with IQ3_A770_R or IQ4_A770 must have")
        if theirs is None:
            log.warning("%s: key %r is missing, taken as that of IQ3_A770 version %d", gguf.path, key, IQ3_A770_VERSION)
        elif theirs != ours:
            raise GgufError(f"{gguf.path}: {key} is {theirs}, this tool knows {ours} only")
