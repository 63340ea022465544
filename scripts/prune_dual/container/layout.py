"""Where each part of a GGUF file stands, before it is written and in comparison with what was."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .entries import DEFAULT_ALIGNMENT, KEY_ALIGNMENT, Kv, Span, Tensor, encode_kv, encode_str, padded
from .hashing import sha256_span


@dataclass(frozen=True)
class Layout:
    """Where each part of a GGUF file stands; offsets are bytes from the file's start."""

    head: list[bytes | Span]  # all before the tensors' data, without gaps
    tensors: list[Tensor]
    offsets: list[int]  # one per tensor
    nbytes: int  # of the whole file

    @property
    def placed(self) -> list[tuple[Tensor, int]]:
        """Each tensor with its offset."""
        return list(zip(self.tensors, self.offsets, strict=True))


def lay_out(kv: Iterable[Kv], tensors: Iterable[Tensor], alignment: int = DEFAULT_ALIGNMENT) -> Layout:
    """Place keys and tensors, in the order given; data stands on `alignment` bytes, or on 32 if that is less."""
    alignment = max(alignment, DEFAULT_ALIGNMENT)
    kv, tensors = _with_alignment(list(kv), alignment), list(tensors)
    infos, places, at = bytearray(), [], 0
    for tensor in tensors:
        infos += encode_str(tensor.name)
        infos += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, at)
        places.append(at)
        at += padded(tensor.nbytes, alignment)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kv))
    data_start = padded(len(start) + sum(entry.nbytes for entry in kv) + len(infos), alignment)
    head = [start, *(entry.raw for entry in kv), bytes(infos)]
    return Layout(head, tensors, [data_start + place for place in places], data_start + at)


def _with_alignment(kv: list[Kv], alignment: int) -> list[Kv]:
    """The keys as they tell `alignment`, unchanged where they do."""
    told = next((entry.value for entry in kv if entry.name == KEY_ALIGNMENT), None)
    if alignment == (told or DEFAULT_ALIGNMENT):
        return kv
    entry = encode_kv(KEY_ALIGNMENT, "u32", alignment)
    return [*kv, entry] if told is None else [entry if one.name == KEY_ALIGNMENT else one for one in kv]


def same_head(path: Path, layout: Layout) -> bool:
    """Whether the file at `path` has the size of `layout`, and its bytes before the tensors' data."""
    if path.stat().st_size != layout.nbytes:
        return False
    at = 0
    for part in layout.head:
        nbytes = part.nbytes if isinstance(part, Span) else len(part)
        if sha256_span(Span(path, at, nbytes)) != sha256_span(part):
            return False
        at += nbytes
    return True
