"""A small strict reader of the GGUF container: the head of a file, checked against the file's size.

The reader of the gguf package rejects tensor type 770 (IQ3_A770), and maps whole files.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from ..errors import GgufError
from .entries import DEFAULT_ALIGNMENT, FORMATS, KEY_ALIGNMENT, VALUE_TYPES, Kv, Span, Tensor, padded
from .tensor_types import IQ3_A770, IQ3_A770_LEGACY, KEY_IQ3_A770_VERSION, tensor_nbytes

VARIANT_PREFIX = "general.tensor_variant."
KEY_VERSION = VARIANT_PREFIX + "version"

MAX_DIMS = 4
MAX_NAME = 63  # bytes; ggml's GGML_MAX_NAME less the closing zero
MAX_KEY = 1 << 16  # bytes; the GGUF specification's limit
MAX_ELEMENTS = 1 << 24  # of one array: 60 times a large vocabulary


class _Cursor:
    """Reads the head of a file; every length is checked against the file's size before anything is allocated.

    `name` is what messages call the file; the head's bytes are in the file `head`, the tensors' in the file `data`.
    """

    def __init__(self, file: BinaryIO, size: int, name: "Path | Address", head: Path, data: Path) -> None:
        self.file, self.size, self.name, self.head, self.data = file, size, name, head, data
        self.at = 0

    def fail(self, reason: str) -> GgufError:
        return GgufError(f"{self.name}: {reason}")

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


class Address(str):
    """Where a remote file is, as messages tell it: without credentials and query."""

    @property
    def name(self) -> str:
        """The file's name alone."""
        return self.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Gguf:
    """The head of a GGUF file: all but the tensors' bytes."""

    path: Path | Address
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
            take tensor type 42 for IQ3_A770; the twins that were published so need no telling, and in files that say
            a version 42 is Q2_0 all the same.

        Raises
        ------
        GgufError
            if the file cannot be read, is no GGUF, or contradicts itself or its own size.
        """
        path = Path(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
                raise GgufError(f"{path}: is a device or a pipe, a model is read at many places; name a file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                return cls._parse(_Cursor(file, size, path, path, path), legacy_type_42)
        except OSError as error:
            raise GgufError(f"{path}: {error.strerror}") from error

    @classmethod
    def read_remote(
        cls, file: BinaryIO, size: int, address: Address, head: Path, *, legacy_type_42: bool = False
    ) -> Self:
        """Read and check the head of a remote file of `size` bytes.

        Parameters
        ----------
        file
            brings the bytes as they are read, and keeps them in the local file `head`: keys are taken from there.

        The tensors' spans tell offsets in the remote file; there is no local file to read them from.
        """
        # a name that no file can have, so that nothing local is ever taken for the tensors' bytes
        return cls._parse(_Cursor(file, size, address, head, head / "remote"), legacy_type_42)

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
        variants = any(key.startswith(VARIANT_PREFIX) for key in kv)
        early = kv.keys().isdisjoint((KEY_VERSION, KEY_IQ3_A770_VERSION))
        accepts_legacy = early and (variants or legacy_type_42)
        legacy, expected, hint = False, 0, ""
        tensors: list[Tensor] = []
        for info in infos.values():
            if info.type == IQ3_A770_LEGACY:
                if accepts_legacy:
                    info, legacy = replace(info, type=IQ3_A770), True
                else:
                    hint = "; if its type 42 is IQ3_A770, say --legacy-type-42"
            tensors.append(_place(cursor, info, data_start, expected, hint))
            expected += padded(tensors[-1].nbytes, alignment)
        return cls(cursor.name, version, alignment, kv, tensors, data_start, legacy)

    def get(self, key: str, kind: str, default: Any = None) -> Any:
        """The value of `key`, which must be of type `kind` ("u32", "[str]", ...), or `default` where it is absent."""
        if key not in self.kv:
            return default
        if self.kv[key].type != kind:
            raise GgufError(f"{self.path}: key {key!r} is of type {self.kv[key].type}, should be {kind}")
        return self.value(key)

    def value(self, key: str) -> Any:
        """The value of `key`, which is there, whatever its type."""
        try:
            return self.kv[key].value
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
    return Kv(key, kind, Span(cursor.head, start, cursor.at - start))


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
    if max(shape) >= 1 << 63 or math.prod(shape) >= 1 << 63:
        raise cursor.fail(f"{what}: impossible shape {list(shape)}")
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    return Tensor(name, shape, kind, Span(cursor.data, offset, 0))


def _place(cursor: _Cursor, info: Tensor, data_start: int, expected: int, hint: str) -> Tensor:
    """Turn an entry's offset within the data section into a range of the file, checked; faults are told with `hint`."""
    what = f"tensor {info.name!r}"
    try:
        nbytes = tensor_nbytes(info.shape, info.type)
    except ValueError as error:
        raise cursor.fail(f"{what}: {error}{hint}") from None
    # ggml lays tensors one after the other; so this rules out overlaps, gaps and misalignment at once
    if info.data.offset != expected:
        raise cursor.fail(f"{what}: data offset {info.data.offset}, should be {expected}{hint}")
    start = data_start + expected
    if start + nbytes > cursor.size:
        raise cursor.fail(f"{what}: data ends at byte {start + nbytes}, past the end of the file at {cursor.size}")
    return replace(info, data=Span(cursor.data, start, nbytes))
