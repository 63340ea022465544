"""What stands in the head of a GGUF file: keys with values, tensors, and where their bytes are."""

import math
import struct
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..errors import MIB, GgufError
from .tensor_types import NAMES

# GGUF value types by id; an array of T is written [T] here
VALUE_TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
FORMATS = dict(zip(VALUE_TYPES, ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"), strict=True))

KEY_ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32  # bytes; also the least on which the engine takes data of a file that it maps
MAX_DECODED = 64 * MIB  # of a value that is looked into; others are copied unread


@dataclass(frozen=True)
class Span:
    """A range of bytes in a file."""

    path: Path
    offset: int
    nbytes: int

    def read(self) -> bytes:
        """Return the bytes; for small spans only."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.nbytes)


@dataclass(frozen=True)
class Strand:
    """`width` bytes of each block of a range of a file, from byte `first` of the block on."""

    span: Span
    block: int  # bytes
    first: int
    width: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self.span.nbytes // self.block

    @property
    def nbytes(self) -> int:
        """Size of what is taken."""
        return self.n_blocks * self.width


@dataclass(frozen=True)
class Woven:
    """Bytes whose blocks are put together of those of several strands, in this order."""

    strands: tuple[Strand, ...]

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return sum(strand.width for strand in self.strands)

    @property
    def nbytes(self) -> int:
        """Size of the whole."""
        return sum(strand.nbytes for strand in self.strands)

    def within(self, span: Span) -> list[Strand]:
        """Where each strand is in a range that holds the woven bytes."""
        ends = accumulate(strand.width for strand in self.strands)
        return [Strand(span, self.block, end - s.width, s.width) for end, s in zip(ends, self.strands, strict=True)]


@dataclass(frozen=True)
class Kv:
    """One key-value entry; `raw` is the whole entry as it stands in the file, so that it can be copied verbatim."""

    name: str
    type: str
    raw: bytes | Span

    @property
    def nbytes(self) -> int:
        """Size of the whole entry."""
        return len(self.raw) if isinstance(self.raw, bytes) else self.raw.nbytes

    @property
    def value_offset(self) -> int:
        """Where the value starts in the file that the entry was read from."""
        assert isinstance(self.raw, Span), "made in memory"
        return self.raw.offset + self._head

    @property
    def _head(self) -> int:
        return 8 + len(self.name.encode()) + 4

    @property
    def value(self) -> Any:
        """The value, decoded on demand: int, float, bool, str, or a list of these."""
        if self.nbytes > MAX_DECODED:
            raise GgufError(f"key {self.name!r}: its value of {self.nbytes} bytes is too large")
        raw = self.raw if isinstance(self.raw, bytes) else self.raw.read()
        at = self._head
        try:
            if not self.type.startswith("["):
                return _decode(self.type, 1, raw, at)[0]
            (count,) = struct.unpack_from("<Q", raw, at + 4)
            return _decode(self.type[1:-1], count, raw, at + 12)
        except UnicodeDecodeError:
            raise GgufError(f"key {self.name!r} is not UTF-8") from None


def _decode(kind: str, count: int, raw: bytes, at: int) -> list[Any]:
    """Decode `count` values of type `kind` that start at byte `at`."""
    if kind != "str":
        return list(struct.unpack_from(f"<{count}{FORMATS[kind]}", raw, at))
    texts = []
    for _ in range(count):
        end = at + 8 + struct.unpack_from("<Q", raw, at)[0]
        texts.append(raw[at + 8 : end].decode())
        at = end
    return texts


def encode_str(text: str) -> bytes:
    """A string as GGUF holds it: its length, then UTF-8."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encode_kv(key: str, kind: str, value: Any) -> Kv:
    """Make an entry; `kind` is a name of VALUE_TYPES, or `[name]` for an array, and `value` of that type."""
    if not kind.startswith("["):
        body = encode_str(value) if kind == "str" else struct.pack("<" + FORMATS[kind], value)
        return Kv(key, kind, encode_str(key) + struct.pack("<I", VALUE_TYPES.index(kind)) + body)
    item = kind[1:-1]
    head = struct.pack("<IIQ", VALUE_TYPES.index("arr"), VALUE_TYPES.index(item), len(value))
    if item == "str":
        body = b"".join(encode_str(text) for text in value)
    else:
        body = struct.pack(f"<{len(value)}{FORMATS[item]}", *value)
    return Kv(key, kind, encode_str(key) + head + body)


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry; `shape` is in the file's order (row length first), `data` where its bytes are.

    A tensor that a file holds is a range of it; one that is to be written may be woven of several.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    data: Span | Woven

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return self.data.nbytes

    @property
    def sources(self) -> list[Span]:
        """The ranges that the data is made of."""
        return [self.data] if isinstance(self.data, Span) else [strand.span for strand in self.data.strands]

    def within(self, path: Path, offset: int) -> list[Span | Strand]:
        """Where the bytes of each of the sources are in a file that has the data at `offset`."""
        written = Span(path, offset, self.nbytes)
        return [written] if isinstance(self.data, Span) else [*self.data.within(written)]

    @property
    def type_name(self) -> str:
        """The type's name in llama.cpp."""
        return NAMES[self.type]

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


def padded(nbytes: int, alignment: int) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment
