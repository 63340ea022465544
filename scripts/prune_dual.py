#!/usr/bin/env python3
"""Cut a phase twin down to one plain GGUF that fits a memory budget.

A phase twin is a GGUF in which each expert tensor (a *group*) is stored twice: `<name>` is variant 0, `<name>.v1` the
larger variant 1. This tool keeps one variant of each group, by the same selection rule as the engine, and writes an
ordinary GGUF without variant keys. The input is never changed.

The file stands alone: it needs Python >= 3.11 and the stock `gguf` package (pip install gguf). The reader of that
package rejects tensor type 770 (IQ3_A770), which is why a small strict reader and writer of the container is here;
the block sizes of all other types come from `gguf`.
"""

import argparse
import json
import logging
import math
import os
import re
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

try:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
except ImportError:
    sys.exit("prune-dual: the Python package gguf is missing: pip install gguf")

log = logging.getLogger("prune-dual")

MIB, GIB = 1 << 20, 1 << 30

# IQ3_A770: 256 weights in 102 bytes. llama.cpp later gave the first ids used, 42 and file type 28, to another type.
IQ3_A770 = 770
IQ3_A770_LEGACY = 42
IQ3_A770_FILE_TYPE = 770
IQ3_A770_BLOCK, IQ3_A770_BYTES = 256, 102
IQ3_A770_VERSION = 1
IQ3_A770_CODEBOOK = (-125, -73, -36, -4, 21, 49, 82, 127)
KEY_IQ3_A770_VERSION = "iq3_a770.version"
KEY_IQ3_A770_CODEBOOK = "iq3_a770.codebook"

VARIANT_PREFIX = "general.tensor_variant."
VARIANT_VERSION = 1
KEY_VERSION = VARIANT_PREFIX + "version"
KEY_COUNT = VARIANT_PREFIX + "count"
KEY_DEFAULT = VARIANT_PREFIX + "default"
KEY_BUDGET_MB = VARIANT_PREFIX + "budget_mb"
KEY_PROMOTE_ORDER = VARIANT_PREFIX + "promote_order"
KEY_PROMOTE_TIE = VARIANT_PREFIX + "promote_tie"
KEY_PROMOTE = VARIANT_PREFIX + "promote"
KEY_FILE_TYPE = "general.file_type"
KEY_ALIGNMENT = "general.alignment"
PROVENANCE_PREFIX = "phase_twin."

BLOCK_SIZES = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()} | {
    IQ3_A770: (IQ3_A770_BLOCK, IQ3_A770_BYTES)
}

# what a file is called whose experts are mostly of a type
FILE_TYPES = {IQ3_A770: IQ3_A770_FILE_TYPE} | {
    int(GGMLQuantizationType[kind]): int(LlamaFileType[f"MOSTLY_{kind}{suffix}"])
    for suffix, kinds in {
        "": "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q6_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS",
        "_M": "Q3_K Q4_K Q5_K",
    }.items()
    for kind in kinds.split()
}

# GGUF value types by id; an array of T is written [T] here
VALUE_TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
FORMATS = dict(zip(VALUE_TYPES, ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"), strict=True))

DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NAME = 63  # bytes; ggml's GGML_MAX_NAME less the closing zero
MAX_KEY = 1 << 16  # bytes; the GGUF specification's limit
MAX_ELEMENTS = 1 << 24  # of one array: 60 times a large vocabulary
MAX_DECODED = 64 * MIB  # of a value that is looked into; others are copied unread
CHUNK = 8 * MIB

Progress = Callable[[int, int], None]


class GgufError(Exception):
    """A file, or a request made of it, that is refused; one line naming file, tensor or key, and reason."""


# ---------------------------------------------------------------------------------------------------------------------
# The container


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
        if not self.type.startswith("["):
            return _decode(self.type, 1, raw, at)[0]
        (count,) = struct.unpack_from("<Q", raw, at + 4)
        return _decode(self.type[1:-1], count, raw, at + 12)


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


def _encode_str(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encode_kv(key: str, kind: str, value: Any) -> Kv:
    """Make an entry; `kind` is a name of VALUE_TYPES, or `[name]` for an array, and `value` of that type."""
    if not kind.startswith("["):
        body = _encode_str(value) if kind == "str" else struct.pack("<" + FORMATS[kind], value)
        return Kv(key, kind, _encode_str(key) + struct.pack("<I", VALUE_TYPES.index(kind)) + body)
    item = kind[1:-1]
    head = struct.pack("<IIQ", VALUE_TYPES.index("arr"), VALUE_TYPES.index(item), len(value))
    if item == "str":
        body = b"".join(_encode_str(text) for text in value)
    else:
        body = struct.pack(f"<{len(value)}{FORMATS[item]}", *value)
    return Kv(key, kind, _encode_str(key) + head + body)


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry; `shape` is in the file's order (row length first), `data` where its bytes are."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: Span

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return self.data.nbytes

    @property
    def type_name(self) -> str:
        """The type's name in llama.cpp."""
        return "IQ3_A770" if self.type == IQ3_A770 else GGMLQuantizationType(self.type).name

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


def padded(nbytes: int, alignment: int) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def tensor_nbytes(shape: Sequence[int], kind: int) -> int:
    """Bytes of a tensor of `shape` (row length first) in the type of id `kind`.

    Raises
    ------
    ValueError
        if the type is unknown or the rows are no whole blocks; says which.
    """
    if kind not in BLOCK_SIZES:
        raise ValueError(f"unknown type id {kind}")
    block, size = BLOCK_SIZES[kind]
    if shape[0] % block:
        raise ValueError(f"rows of {shape[0]} weights are no multiple of the type's block of {block}")
    return math.prod(shape) // block * size


class _Cursor:
    """Reads the head of a file; every length is checked against the file's size before anything is allocated."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.at, self.size = 0, os.fstat(file.fileno()).st_size

    def fail(self, reason: str) -> GgufError:
        return GgufError(f"{self.path}: {reason}")

    def need(self, nbytes: int, what: str) -> None:
        if nbytes > self.size - self.at:
            raise self.fail(f"{what}: {nbytes} bytes at byte {self.at} go past the end of the file at {self.size}")

    def take(self, nbytes: int, what: str) -> bytes:
        self.need(nbytes, what)
        data = self.file.read(nbytes)
        if len(data) != nbytes:
            raise self.fail(f"{what}: the file became shorter while it was read")
        self.at += nbytes
        return data

    def skip(self, nbytes: int, what: str) -> None:
        self.need(nbytes, what)
        self.file.seek(nbytes, os.SEEK_CUR)
        self.at += nbytes

    def number(self, fmt: str, what: str) -> int:
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt), what))[0]

    def text(self, limit: int, what: str) -> str:
        length = self.number("Q", what)
        if not 0 < length <= limit:
            raise self.fail(f"{what} has {length} bytes, allowed are 1 to {limit}")
        try:
            text = self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None
        if re.search(r"[\x00-\x1f\x7f]", text):
            raise self.fail(f"{what} has control characters: {text!r}")
        return text


@dataclass(frozen=True)
class Gguf:
    """The head of a GGUF file: all but the tensors' bytes."""

    path: Path
    version: int
    alignment: int
    kv: dict[str, Kv]
    tensors: list[Tensor]
    data_start: int
    legacy: bool  # IQ3_A770 was stored under its first id

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, legacy_type_42: bool = False) -> Self:
        """Read and check the head of the file at `path`.

        Parameters
        ----------
        legacy_type_42
            take tensor type 42 for IQ3_A770; files with variant keys need no telling.

        Raises
        ------
        GgufError
            if the file cannot be read, is no GGUF, or contradicts itself or its own size.
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                return cls._parse(_Cursor(file, path), legacy_type_42)
        except OSError as error:
            raise GgufError(f"{path}: {error.strerror}") from error

    @classmethod
    def _parse(cls, cursor: _Cursor, legacy_type_42: bool) -> Self:
        if cursor.take(4, "magic") != b"GGUF":
            raise cursor.fail("not a GGUF file")
        version = cursor.number("I", "version")
        if version not in (2, 3):
            raise cursor.fail(f"GGUF version {version} (or big endian); 2 and 3 can be read")
        n_tensors, n_kv = cursor.number("Q", "number of tensors"), cursor.number("Q", "number of keys")
        cursor.need(14 * n_kv + 33 * n_tensors, f"{n_kv} keys and {n_tensors} tensors")
        kv = _unique(cursor, "key", (_read_kv(cursor) for _ in range(n_kv)))
        infos = _unique(cursor, "tensor", (_read_info(cursor) for _ in range(n_tensors)))
        alignment = _alignment(cursor, kv)
        data_start = padded(cursor.at, alignment)
        accepts_legacy = legacy_type_42 or any(key.startswith(VARIANT_PREFIX) for key in kv)
        legacy, expected = False, 0
        tensors: list[Tensor] = []
        for info in infos.values():
            if info.type == IQ3_A770_LEGACY and accepts_legacy:
                info, legacy = replace(info, type=IQ3_A770), True
            tensors.append(_place(cursor, info, data_start, expected))
            expected += padded(tensors[-1].nbytes, alignment)
        return cls(cursor.path, version, alignment, kv, tensors, data_start, legacy)

    def get(self, key: str, kind: str, default: Any = None) -> Any:
        """The value of `key`, which must be of type `kind` ("u32", "[str]", ...), or `default` where it is absent."""
        if key not in self.kv:
            return default
        if self.kv[key].type != kind:
            raise GgufError(f"{self.path}: key {key!r} is of type {self.kv[key].type}, should be {kind}")
        try:
            return self.kv[key].value
        except UnicodeDecodeError:
            raise GgufError(f"{self.path}: key {key!r} is not UTF-8") from None
        except GgufError as error:
            raise GgufError(f"{self.path}: {error}") from None


def _unique(cursor: _Cursor, what: str, entries: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.name in found:
            raise cursor.fail(f"{what} {entry.name!r} is there twice")
        found[entry.name] = entry
    return found


def _read_kv(cursor: _Cursor) -> Kv:
    start = cursor.at
    key = cursor.text(MAX_KEY, "a key's name")
    what = f"key {key!r}"
    kind = _value_type(cursor, what)
    if kind == "arr":
        item, count = _value_type(cursor, what), cursor.number("Q", what)
        if item == "arr":
            raise cursor.fail(f"{what}: arrays of arrays are not supported")
        if count > MAX_ELEMENTS:
            raise cursor.fail(f"{what}: array of {count} elements, at most {MAX_ELEMENTS} are allowed")
        kind = f"[{item}]"
    else:
        item, count = kind, 1
    if item == "str":
        cursor.need(8 * count, what)
        for _ in range(count):
            cursor.skip(cursor.number("Q", what), what)
    else:
        cursor.skip(count * struct.calcsize("<" + FORMATS[item]), what)
    return Kv(key, kind, Span(cursor.path, start, cursor.at - start))


def _value_type(cursor: _Cursor, what: str) -> str:
    number = cursor.number("I", what)
    if number >= len(VALUE_TYPES):
        raise cursor.fail(f"{what}: unknown value type {number}")
    return VALUE_TYPES[number]


def _alignment(cursor: _Cursor, kv: dict[str, Kv]) -> int:
    if KEY_ALIGNMENT not in kv:
        return DEFAULT_ALIGNMENT
    if kv[KEY_ALIGNMENT].type != "u32":
        raise cursor.fail(f"key {KEY_ALIGNMENT!r} is of type {kv[KEY_ALIGNMENT].type}, should be u32")
    alignment = kv[KEY_ALIGNMENT].value
    if alignment.bit_count() != 1:
        raise cursor.fail(f"key {KEY_ALIGNMENT!r}: {alignment} is not a power of two")
    return alignment


def _read_info(cursor: _Cursor) -> Tensor:
    """Read a tensor's entry; where its data lies is only known after the last one."""
    name = cursor.text(MAX_NAME, "a tensor's name")
    what = f"tensor {name!r}"
    n_dims = cursor.number("I", what)
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.fail(f"{what} has {n_dims} dimensions, allowed are 1 to {MAX_DIMS}")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dims))
    if 0 in shape or math.prod(shape) >= 1 << 63:
        raise cursor.fail(f"{what}: impossible shape {list(shape)}")
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    return Tensor(name, shape, kind, Span(cursor.path, offset, 0))


def _place(cursor: _Cursor, info: Tensor, data_start: int, expected: int) -> Tensor:
    """Turn an entry's offset within the data section into a range of the file, checked."""
    what = f"tensor {info.name!r}"
    try:
        nbytes = tensor_nbytes(info.shape, info.type)
    except ValueError as error:
        hint = "; if it is IQ3_A770, say --legacy-type-42" if info.type == IQ3_A770_LEGACY else ""
        raise cursor.fail(f"{what}: {error}{hint}") from None
    # ggml lays tensors one after the other; so this rules out overlaps, gaps and misalignment at once
    if info.data.offset != expected:
        raise cursor.fail(f"{what}: data offset {info.data.offset}, should be {expected}")
    start = data_start + expected
    if start + nbytes > cursor.size:
        raise cursor.fail(f"{what}: data ends at byte {start + nbytes}, past the end of the file at {cursor.size}")
    return replace(info, data=Span(cursor.path, start, nbytes))


def check_iq3_a770(gguf: Gguf) -> None:
    """Refuse a file whose IQ3_A770 differs from the one known here; warn where it does not say."""
    if not any(tensor.type == IQ3_A770 for tensor in gguf.tensors):
        return
    for key, kind, ours in (
        (KEY_IQ3_A770_VERSION, "u32", IQ3_A770_VERSION),
        (KEY_IQ3_A770_CODEBOOK, "[i8]", list(IQ3_A770_CODEBOOK)),
    ):
        theirs = gguf.get(key, kind)
        if theirs is None:
            log.warning("%s: key %r is missing, taken as that of IQ3_A770 version %d", gguf.path, key, IQ3_A770_VERSION)
        elif theirs != ours:
            raise GgufError(f"{gguf.path}: {key} is {theirs}, this tool knows {ours} only")


def iq3_a770_kv() -> list[Kv]:
    """The entries that a file with IQ3_A770 tensors must carry."""
    return [
        encode_kv(KEY_IQ3_A770_VERSION, "u32", IQ3_A770_VERSION),
        encode_kv(KEY_IQ3_A770_CODEBOOK, "[i8]", IQ3_A770_CODEBOOK),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_gguf(
    path: str | os.PathLike[str],
    kv: Iterable[Kv],
    tensors: Iterable[Tensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a GGUF file, streaming keys and tensors from where they are, and return its size in bytes.

    The file appears under its name only when complete. Memory use does not depend on its size: ranges go from file to
    file within the kernel, or by chunks; mapped memory would count as ours.

    Parameters
    ----------
    tensors
        in the order in which their data is to stand.
    force
        replace an existing file; never one that is read here.
    progress
        called with (bytes done, bytes in all).

    Raises
    ------
    GgufError
        if the output exists or is an input, the disk is too full, or reading or writing fails.
    """
    path, kv, tensors = Path(path), list(kv), list(tensors)
    infos, offset = bytearray(), 0
    for tensor in tensors:
        infos += _encode_str(tensor.name)
        infos += struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, offset)
        offset += padded(tensor.nbytes, alignment)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kv))
    data_start = padded(len(head) + sum(entry.nbytes for entry in kv) + len(infos), alignment)
    total = data_start + offset
    parts = [head, *(entry.raw for entry in kv), bytes(infos), None]
    for tensor in tensors:
        parts += [tensor.data, None]
    _check_output(path, {part.path for part in parts if isinstance(part, Span)}, total, force)
    try:
        with _partial(path) as out, ExitStack() as stack:
            sources: dict[Path, BinaryIO] = {}
            for part in parts:
                if part is None:
                    out.seek(padded(out.tell(), alignment))
                elif isinstance(part, Span):
                    if part.path not in sources:
                        sources[part.path] = stack.enter_context(open(part.path, "rb", buffering=0))
                    _copy(sources[part.path], part, out, progress, total)
                else:
                    _write_all(out, part)
            out.truncate(total)
    except OSError as error:
        raise GgufError(f"{path}: cannot be written: {error.strerror or error}") from error
    return total


def _check_output(path: Path, sources: Iterable[Path], nbytes: int, force: bool) -> None:
    if not path.parent.is_dir():
        raise GgufError(f"{path}: the folder {path.parent} does not exist")
    if path.exists():
        for source in sources:
            if path.samefile(source):
                raise GgufError(f"{path}: is the input {source}; choose another name for the output")
        if path.is_dir():
            raise GgufError(f"{path}: is a folder; name a file")
        if not force:
            raise GgufError(f"{path}: exists already; --force replaces it")
    free = shutil.disk_usage(path.parent).free
    if nbytes > free:
        raise GgufError(f"{path}: needs {_amount(nbytes)}, {path.parent} has {_amount(free)} free")


def _amount(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.2f} MiB"


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """Yield an unbuffered file beside `path` that is renamed to it at the end, or removed on any failure."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb", buffering=0) as out:
            yield out
            os.fsync(out.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: BinaryIO, span: Span, out: BinaryIO, progress: Progress | None, total: int) -> None:
    """Append `span` of `source` to `out`."""
    in_kernel = hasattr(os, "copy_file_range")
    done = 0
    while done < span.nbytes:
        want = min(CHUNK, span.nbytes - done)
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source.fileno(), out.fileno(), want, offset_src=span.offset + done)
            except OSError:
                in_kernel = False  # another file system or an old kernel; anything worse shows below
        if not copied:
            source.seek(span.offset + done)
            data = source.read(want)
            if not data:
                raise GgufError(f"{span.path}: became shorter while it was copied")
            _write_all(out, data)
            copied = len(data)
        done += copied
        if progress:
            progress(out.tell(), total)


def _write_all(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


# ---------------------------------------------------------------------------------------------------------------------
# The twin


@dataclass(frozen=True)
class Twin:
    """A GGUF seen as groups of variants."""

    gguf: Gguf
    groups: dict[str, dict[int, Tensor]]  # canonical name -> variant -> tensor, in file order
    count: int
    default: int
    budget_mb: int
    promote_order: list[str]
    promote_tie: list[int] | None

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, legacy_type_42: bool = False) -> Self:
        """Read the twin at `path`; raises GgufError where it breaks the format in any way."""
        return cls.of(Gguf.read(path, legacy_type_42=legacy_type_42))

    @classmethod
    def of(cls, gguf: Gguf) -> Self:
        """See `gguf` as a twin; raises GgufError where it breaks the format in any way."""
        where = gguf.path
        if not any(key.startswith(VARIANT_PREFIX) for key in gguf.kv):
            raise GgufError(f"{where}: not a phase twin: it has no {VARIANT_PREFIX}* keys")
        version = gguf.get(KEY_VERSION, "u32")
        if version != VARIANT_VERSION:
            raise GgufError(f"{where}: {KEY_VERSION} is {version}, this tool knows {VARIANT_VERSION} only")
        count = gguf.get(KEY_COUNT, "u32")
        if not count:
            raise GgufError(f"{where}: {KEY_COUNT} is {count}")
        if gguf.get("split.count", "u16", 0) > 1:
            raise GgufError(f"{where}: is a part of a split file; merge it first (llama-gguf-split --merge)")
        check_iq3_a770(gguf)
        twin = cls(
            gguf,
            _groups(gguf, count),
            count,
            gguf.get(KEY_DEFAULT, "u32", 0),
            gguf.get(KEY_BUDGET_MB, "u32", 0),
            gguf.get(KEY_PROMOTE_ORDER, "[str]", []),
            gguf.get(KEY_PROMOTE_TIE, "[u32]"),
        )
        if twin.default >= count:
            raise GgufError(f"{where}: {KEY_DEFAULT} is {twin.default}, but there are {count} variants")
        if twin.promote_tie is not None and len(twin.promote_tie) != len(twin.promote_order):
            raise GgufError(
                f"{where}: {KEY_PROMOTE_TIE} has {len(twin.promote_tie)} entries, "
                f"{KEY_PROMOTE_ORDER} {len(twin.promote_order)}"
            )
        return twin

    def take(self, variants: dict[str, int]) -> list[Tensor]:
        """The tensors of the plain model with the given variant of each group, 0 where none is given.

        They stand in the order of variant 0 and bear the canonical names, whatever is taken.
        """
        plain = []
        for tensor in self.gguf.tensors:
            name, number = split_variant(tensor.name)
            if number == 0:
                taken = variants.get(name, 0)
                plain.append(replace(self.groups[name][taken], name=name) if taken else tensor)
        return plain

    def phase(self, number: int) -> list[Tensor]:
        """The tensors of the plain model with every group at variant `number`."""
        return self.take(dict.fromkeys(self.groups, number))

    def delta(self, name: str, number: int) -> int:
        """Bytes that variant `number` of group `name` takes more than variant 0."""
        return self.groups[name][number].nbytes - self.groups[name][0].nbytes


def split_variant(name: str) -> tuple[str, int]:
    """Canonical name and variant number of a tensor's name: `x.v1` -> (`x`, 1), `x` -> (`x`, 0).

    Raises
    ------
    ValueError
        for `.v0` and leading zeros.
    """
    match = re.fullmatch(r"(.*)\.v([0-9]+)", name, re.ASCII | re.DOTALL)
    if not match:
        return name, 0
    if match[2].startswith("0"):
        raise ValueError("variants count from 1, without leading zeros")
    return match[1], int(match[2])


def variant_name(name: str, number: int) -> str:
    """The name under which variant `number` of group `name` is stored."""
    return f"{name}.v{number}" if number else name


def _groups(gguf: Gguf, count: int) -> dict[str, dict[int, Tensor]]:
    def fail(tensor: Tensor, reason: object) -> GgufError:
        return GgufError(f"{gguf.path}: tensor {tensor.name!r}: {reason}")

    groups: dict[str, dict[int, Tensor]] = {}
    for tensor in gguf.tensors:
        try:
            name, number = split_variant(tensor.name)
        except ValueError as error:
            raise fail(tensor, error) from None
        groups.setdefault(name, {})[number] = tensor
        if number >= count:
            raise fail(tensor, f"{KEY_COUNT} is {count}")
    groups = {name: variants for name, variants in groups.items() if set(variants) != {0}}
    if not groups:
        raise GgufError(f"{gguf.path}: {KEY_COUNT} is {count}, but no tensor has variants")
    for name, variants in groups.items():
        some = next(iter(variants.values()))
        if 0 not in variants:
            raise fail(some, f"its canonical tensor {name!r} is missing")
        for number in range(count):
            if number not in variants:
                raise fail(some, f"has no variant {number}, but {KEY_COUNT} is {count}")
            if variants[number].shape != variants[0].shape:
                shapes = f"{list(variants[number].shape)}, that of variant 0 {list(variants[0].shape)}"
                raise fail(variants[number], f"its shape is {shapes}")
    return groups


# ---------------------------------------------------------------------------------------------------------------------
# Selection


@dataclass(frozen=True)
class Selection:
    """Which variant each group is kept in; sizes are of all tensors, in bytes."""

    budget_bytes: int  # 0: none
    variant0_bytes: int
    selected_bytes: int
    promoted: list[str]  # in promotion order
    variants: dict[str, int]

    def json(self) -> str:
        """The facts of the selection as one line of JSON."""
        keys = ("budget_bytes", "variant0_bytes", "selected_bytes", "promoted")
        return json.dumps({key: getattr(self, key) for key in keys}, ensure_ascii=False)


def select(twin: Twin, *, budget_bytes: int = 0, variant: int | None = None, promote: str | None = None) -> Selection:
    """Choose one variant for each group: THE selection rule, same answer as the engine's.

    `promote` wins over `variant`, which wins over `budget_bytes`; with none of them the twin's default is taken.

    Parameters
    ----------
    budget_bytes
        for the bytes of all tensors; 0 means no budget.
    variant
        one variant for all groups.
    promote
        entries of promote_order to take in variant 1, as ranks and ranges ("0-11,14").

    Raises
    ------
    GgufError
        if even variant 0 does not fit, there is no such variant, or the ranks are unreadable.
    """
    if promote is not None:
        ranks = parse_ranks(promote, len(twin.promote_order))
        promoted = _known(twin, [twin.promote_order[rank] for rank in ranks])
        return _selection(twin, 0, dict.fromkeys(promoted, 1))
    if variant is None and budget_bytes == 0:
        variant = twin.default
    if variant is not None:
        if variant >= twin.count:
            raise GgufError(f"{twin.gguf.path}: variant {variant} asked for, but there are {twin.count} variants")
        return _selection(twin, 0, dict.fromkeys(twin.groups, variant))

    total = sum(tensor.nbytes for tensor in twin.phase(0))
    if total > budget_bytes:
        raise GgufError(
            f"{twin.gguf.path}: does not fit {budget_bytes / MIB:g} MiB: "
            f"the smallest feasible budget is {-(-total // MIB)} MiB"
        )
    ties = twin.promote_tie or range(len(twin.promote_order))
    members: dict[int, list[str]] = {}
    for name, tie in zip(twin.promote_order, ties, strict=True):
        members.setdefault(tie, []).append(name)
    known = set(_known(twin, twin.promote_order))
    chosen: dict[str, int] = {}
    skipped: dict[int, int] = {}  # tie -> promotions when it did not fit; until there are more it will not either
    for name, tie in zip(twin.promote_order, ties, strict=True):
        if name not in known or name in chosen or skipped.get(tie) == len(chosen):
            continue
        waiting = [other for other in dict.fromkeys(members[tie]) if other in known and other not in chosen]
        delta = sum(twin.delta(other, 1) for other in waiting)
        if delta > 0 and total + delta <= budget_bytes:
            chosen |= dict.fromkeys(waiting, 1)
            total += delta
        else:
            skipped[tie] = len(chosen)
    return _selection(twin, budget_bytes, chosen)


def _known(twin: Twin, names: Iterable[str]) -> list[str]:
    """The names that are groups, each once."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in twin.groups:
            log.warning("%s: %s names %r, which is no group: ignored", twin.gguf.path, KEY_PROMOTE_ORDER, name)
    return [name for name in names if name in twin.groups]


def _selection(twin: Twin, budget_bytes: int, chosen: dict[str, int]) -> Selection:
    variants = {name: chosen.get(name, 0) for name in twin.groups}
    variant0 = sum(tensor.nbytes for tensor in twin.phase(0))
    selected = sum(tensor.nbytes for tensor in twin.take(variants))
    return Selection(budget_bytes, variant0, selected, [name for name, number in chosen.items() if number], variants)


def parse_ranks(text: str, count: int) -> list[int]:
    """Ranks of a list like "0-11,14", ascending, each once and below `count`; the empty string means none."""
    ranks: set[int] = set()
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part, re.ASCII)
        if not match:
            raise GgufError(f"{KEY_PROMOTE}: {part!r} in {text!r} is neither a rank nor a range of ranks")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise GgufError(f"{KEY_PROMOTE}: {part!r} in {text!r} is out of range; there are {count} ranks from 0")
        ranks |= set(range(first, last + 1))
    return sorted(ranks)


def vram_budget_mb(vram_gib: str, reserve_gib: str) -> int:
    """MiB left for weights on a card of `vram_gib` with `reserve_gib` kept free: floor((V - R) * 1024), exactly."""
    return math.floor((Fraction(vram_gib) - Fraction(reserve_gib)) * 1024)


# ---------------------------------------------------------------------------------------------------------------------
# The plain file


def prune(
    twin: Twin,
    selection: Selection,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the selected variants as a plain GGUF to `out` and return its size in bytes.

    A promoted tensor takes the place of its variant 0, so that every pruned file has the tensor order of the model's
    plain quantized file.
    """
    kept = twin.take(selection.variants)
    kv = list(_plain_kv(twin, selection, kept).values())
    return write_gguf(out, kv, kept, alignment=twin.gguf.alignment, force=force, progress=progress)


def _plain_kv(twin: Twin, selection: Selection, kept: list[Tensor]) -> dict[str, Kv]:
    drop = (VARIANT_PREFIX, KEY_IQ3_A770_VERSION, KEY_IQ3_A770_CODEBOOK)
    kv = {key: entry for key, entry in twin.gguf.kv.items() if not key.startswith(drop)}
    file_type = _file_type(twin, selection, kept)
    added = [] if file_type is None else [encode_kv(KEY_FILE_TYPE, "u32", file_type)]
    added += [
        encode_kv(PROVENANCE_PREFIX + "pruned_from", "str", twin.gguf.path.name),
        encode_kv(PROVENANCE_PREFIX + "budget_mb", "u32", selection.budget_bytes // MIB),
        encode_kv(PROVENANCE_PREFIX + "promoted", "u32", len(selection.promoted)),
    ]
    if any(tensor.type == IQ3_A770 for tensor in kept):
        added += iq3_a770_kv()
    return kv | {entry.name: entry for entry in added}


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


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="prune-dual", description="Cut a phase twin down to one plain GGUF.")
    parser.add_argument("--dual", required=True, type=Path, metavar="IN.gguf", help="the twin; never changed")
    parser.add_argument("--out", type=Path, metavar="OUT.gguf", help="the file to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--budget-mb", type=_u32, metavar="N", help="MiB of weights to fit; 0: the twin's default")
    what.add_argument("--vram-gib", type=_gib, metavar="V", help="GiB of the card; weights get this less the reserve")
    what.add_argument("--variant", type=_u32, metavar="N", help="one variant for all: 0 the small, 1 the large")
    parser.add_argument(
        "--reserve-gib", type=_gib, default="0.6", metavar="R", help="kept free of the card (%(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the selection, write nothing")
    parser.add_argument("--json", action="store_true", help="print the selection as JSON on stdout")
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf if it exists")
    parser.add_argument("--legacy-type-42", action="store_true", help="take tensor type 42 for IQ3_A770")
    args = parser.parse_args(argv)
    if not args.out and not args.dry_run:
        parser.error("--out is needed, or --dry-run")
    if args.vram_gib is not None:
        args.budget_mb = vram_budget_mb(args.vram_gib, args.reserve_gib)
        if not 0 < args.budget_mb < 1 << 32:
            parser.error(f"--vram-gib {args.vram_gib} less {args.reserve_gib} leaves {args.budget_mb} MiB for weights")
    return args


def _u32(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def _gib(text: str) -> str:
    """Check a decimal number; it stays text, since a binary float would move the floor at whole MiB."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GiB such as 16 or 0.6")
    return text


def _show_progress(done: int, total: int) -> None:
    print(f"\rprune-dual: {_amount(done)} of {_amount(total)}  ", end="", file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(args: argparse.Namespace) -> None:
    twin = Twin.read(args.dual, legacy_type_42=args.legacy_type_42)
    selection = select(twin, budget_bytes=(args.budget_mb or 0) * MIB, variant=args.variant)
    if not args.dry_run:
        live = sys.stderr.isatty()
        size = prune(twin, selection, args.out, force=args.force, progress=_show_progress if live else None)
        if live:
            print(file=sys.stderr)
    if args.json:
        print(selection.json())
        return
    print(f"{args.dual}: {len(twin.groups)} groups, {_amount(selection.variant0_bytes)} with all at variant 0")
    limit = f" within {args.budget_mb} MiB" if args.budget_mb else ""
    print(f"promoted {len(selection.promoted)} of {len(twin.groups)}: {_amount(selection.selected_bytes)}{limit}")
    print("dry run: nothing written" if args.dry_run else f"wrote {args.out} ({_amount(size)})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="prune-dual: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: the partial file goes
    try:
        _run(args)
    except GgufError as error:
        print(f"prune-dual: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprune-dual: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
