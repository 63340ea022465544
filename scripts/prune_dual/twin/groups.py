"""A GGUF seen as a phase twin: groups of variants, and the keys that say so."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from ..container.entries import Tensor
from ..container.reader import VARIANT_PREFIX, Gguf
from ..container.type_keys import check_types
from ..errors import GgufError
from .kinds import KEY_COUNT, SIBLINGS, find_groups, split_variant, twin_kind

KEY_DEFAULT = VARIANT_PREFIX + "default"
KEY_BUDGET_MB = VARIANT_PREFIX + "budget_mb"
KEY_PROMOTE_ORDER = VARIANT_PREFIX + "promote_order"
KEY_PROMOTE_TIE = VARIANT_PREFIX + "promote_tie"
KEY_PROMOTE = VARIANT_PREFIX + "promote"


@dataclass(frozen=True)
class Twin:
    """A GGUF seen as groups of variants.

    Variant 1 of a nested twin is what base and plane are together: a tensor that no file holds yet.
    """

    gguf: Gguf
    groups: dict[str, dict[int, Tensor]]  # canonical name -> variant -> tensor, in file order
    count: int
    default: int
    budget_mb: int
    promote_order: list[str]
    promote_tie: list[int] | None
    n_loaded_blocks: int | None = None  # those of an MTP head are loaded to speculate with it only; None: all
    kind: str = SIBLINGS

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
        kind = twin_kind(gguf)
        count = gguf.get(KEY_COUNT, "u32")
        if not count:
            raise GgufError(f"{where}: {KEY_COUNT} is {count}")
        check_types(gguf)
        twin = cls(
            gguf,
            find_groups(gguf, kind, count),
            count,
            gguf.get(KEY_DEFAULT, "u32", 0),
            gguf.get(KEY_BUDGET_MB, "u32", 0),
            gguf.get(KEY_PROMOTE_ORDER, "[str]", []),
            gguf.get(KEY_PROMOTE_TIE, "[u32]"),
            head.start if (head := mtp_blocks(gguf)) else None,
            kind,
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
            name, number = split_variant(tensor.name, self.kind)
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
