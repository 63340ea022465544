"""The plain GGUF of a selection."""

import os
from collections.abc import Callable
from pathlib import Path

from ..container.entries import Kv, Tensor, encode_kv
from ..container.layout import Layout, lay_out
from ..container.reader import VARIANT_PREFIX
from ..container.statements import about_bytes
from ..container.tensor_types import FILE_TYPES
from ..container.type_keys import TYPE_KEYS, type_kv
from ..container.writing import write_gguf
from ..errors import MIB
from ..progress import Progress
from .groups import Twin
from .selection import Selection

KEY_FILE_TYPE = "general.file_type"
PROVENANCE_PREFIX = "phase_twin."


def prune(
    twin: Twin,
    selection: Selection,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
    check: Callable[[Path, Layout], None] | None = None,
) -> int:
    """Write the selected variants as a plain GGUF to `out` and return its size in bytes.

    A promoted tensor takes the place of its variant 0, so that every pruned file has the tensor order of the model's
    plain quantized file; base and plane of a nested twin become one tensor there. `check` sees the file before it gets
    its name: see `write_gguf`.
    """
    return write_gguf(
        out, *_plain_parts(twin, selection), alignment=twin.gguf.alignment, force=force, progress=progress, check=check
    )


def plain_layout(twin: Twin, selection: Selection) -> Layout:
    """The plain file, before it is written."""
    return lay_out(*_plain_parts(twin, selection), twin.gguf.alignment)


def _plain_parts(twin: Twin, selection: Selection) -> tuple[list[Kv], list[Tensor]]:
    kept = twin.take(selection.variants)
    return list(_plain_kv(twin, selection, kept).values()), kept


def _plain_kv(twin: Twin, selection: Selection, kept: list[Tensor]) -> dict[str, Kv]:
    drop = {*TYPE_KEYS, *about_bytes(twin.gguf)}
    kv = {key: e for key, e in twin.gguf.kv.items() if key not in drop and not key.startswith(VARIANT_PREFIX)}
    file_type = _file_type(twin, selection, kept)
    added = [] if file_type is None else [encode_kv(KEY_FILE_TYPE, "u32", file_type)]
    added += [
        encode_kv(PROVENANCE_PREFIX + "pruned_from", "str", _text(twin.gguf.path.name)),
        encode_kv(PROVENANCE_PREFIX + "budget_mb", "u32", selection.budget_bytes // MIB),
        encode_kv(PROVENANCE_PREFIX + "promoted", "u32", len(selection.promoted)),
    ]
    added += type_kv(tensor.type for tensor in kept)
    return kv | {entry.name: entry for entry in added}


def _text(name: str) -> str:
    """A file's name as UTF-8 can say it; that of an older file may be in another encoding."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _file_type(twin: Twin, selection: Selection, kept: list[Tensor]) -> int | None:
    """The twin's own file type while nothing is promoted, else that of the type which most bytes of the groups have."""
    own = twin.gguf.get(KEY_FILE_TYPE, "u32")
    if not selection.promoted and not twin.gguf.legacy:
        return own
    nbytes: dict[int, int] = {}
    for tensor in kept:
        if tensor.name in twin.groups:
            nbytes[tensor.type] = nbytes.get(tensor.type, 0) + tensor.nbytes
    return FILE_TYPES.get(max(nbytes, key=lambda kind: nbytes[kind]), own)
