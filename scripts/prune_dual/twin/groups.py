"""A GGUF seen as a phase twin: groups of variants, and the keys that say so."""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from ..container.entries import Kv, Tensor, encode_kv
from ..container.reader import KEY_VERSION, VARIANT_PREFIX, Gguf
from ..container.tensor_types import (
    IQ3_A770,
    IQ3_A770_CODEBOOK,
    IQ3_A770_VERSION,
    KEY_IQ3_A770_CODEBOOK,
    KEY_IQ3_A770_VERSION,
)
from ..errors import GgufError

log = logging.getLogger("prune-dual")

VARIANT_VERSION = 1
KEY_COUNT = VARIANT_PREFIX + "count"
KEY_DEFAULT = VARIANT_PREFIX + "default"
KEY_BUDGET_MB = VARIANT_PREFIX + "budget_mb"
KEY_PROMOTE_ORDER = VARIANT_PREFIX + "promote_order"
KEY_PROMOTE_TIE = VARIANT_PREFIX + "promote_tie"
KEY_PROMOTE = VARIANT_PREFIX + "promote"


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
    n_loaded_blocks: int | None = None  # those of an MTP head are loaded to speculate with it only; None: all

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, legacy_type_42: bool = False) -> Self:
        """Read the twin at `path`; raises GgufError where it breaks the format in any way."""
        return cls.of(Gguf.read(path, legacy_type_42=legacy_type_42))

    @classmethod
    def of(cls, gguf: Gguf) -> Self:
        """See `gguf` as a twin; raises GgufError where it breaks the format in any way."""
        where = gguf.path
        # only the first part has the keys of a twin
        if gguf.get("split.count", "u16", 0) > 1:
            raise GgufError(f"{where}: is a part of a split file; merge it first (llama-gguf-split --merge)")
        if not any(key.startswith(VARIANT_PREFIX) for key in gguf.kv):
            raise GgufError(f"{where}: not a phase twin: it has no {VARIANT_PREFIX}* keys")
        version = gguf.get(KEY_VERSION, "u32")
        if version is None:
            log.warning("%s: key %r is missing, taken as %d", where, KEY_VERSION, VARIANT_VERSION)
        elif version != VARIANT_VERSION:
            raise GgufError(f"{where}: {KEY_VERSION} is {version}, this tool knows {VARIANT_VERSION} only")
        count = gguf.get(KEY_COUNT, "u32")
        if not count:
            raise GgufError(f"{where}: {KEY_COUNT} is {count}")
        check_iq3_a770(gguf)
        twin = cls(
            gguf,
            _groups(gguf, count),
            count,
            gguf.get(KEY_DEFAULT, "u32", 0),
            gguf.get(KEY_BUDGET_MB, "u32", 0),
            gguf.get(KEY_PROMOTE_ORDER, "[str]", []),
            gguf.get(KEY_PROMOTE_TIE, "[u32]"),
            head.start if (head := mtp_blocks(gguf)) else None,
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

    def with_mtp(self) -> Self:
        """The twin as the engine loads it to speculate with its MTP head."""
        return replace(self, n_loaded_blocks=None)

    def loaded(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Those of `tensors` that the engine loads."""
        return [tensor for tensor in tensors if self._is_loaded(tensor.name)]

    def delta(self, name: str, number: int) -> int:
        """Bytes that variant `number` of group `name` takes more than variant 0; none where it is not loaded."""
        if not self._is_loaded(name):
            return 0
        return self.groups[name][number].nbytes - self.groups[name][0].nbytes

    def _is_loaded(self, name: str) -> bool:
        block = re.match(r"blk\.([0-9]{1,9})\.", name, re.ASCII)
        return self.n_loaded_blocks is None or not block or int(block[1]) < self.n_loaded_blocks


def mtp_blocks(gguf: Gguf) -> range:
    """Numbers of the blocks of an MTP head, which come last, or none. What the engine makes of the same keys."""
    arch = gguf.get("general.architecture", "str", "")
    n_all, n_mtp = (gguf.get(f"{arch}.{name}", "u32", 0) for name in ("block_count", "nextn_predict_layers"))
    return range(n_all - n_mtp, n_all) if 0 < n_mtp < n_all else range(0)


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
