"""The two kinds of twin: how each names what it stores, and what it must hold.

Siblings: `<name>`, `<name>.v1` and so on are the variants of a group, each whole. Nested: `<name>` is variant 0 and
`<name>.r1` a plane that refines it; both together, block by block, are variant 1.
"""

import logging
import re

from ..container.entries import Strand, Tensor, Woven
from ..container.reader import KEY_VERSION, VARIANT_PREFIX, Gguf
from ..container.tensor_types import (
    IQ3_A770,
    IQ3_A770_BYTES,
    IQ3_A770_R,
    IQ3_A770_R_BYTES,
    IQ4_A770,
    IQ4_A770_BYTES,
    NAMES,
)
from ..errors import GgufError

log = logging.getLogger("prune-dual")

KEY_COUNT = VARIANT_PREFIX + "count"
KEY_KIND = VARIANT_PREFIX + "kind"
SIBLINGS, NESTED = "siblings", "nested"
# of the version that is written for a kind; 2 may say either
VERSIONS = {SIBLINGS: 1, NESTED: 2}
LETTERS = {SIBLINGS: "v", NESTED: "r"}


def twin_kind(gguf: Gguf) -> str:
    """The kind that the keys of a twin tell; raises GgufError where it is none that is known."""
    where, version, kind = gguf.path, gguf.get(KEY_VERSION, "u32"), gguf.get(KEY_KIND, "str")
    if version is None:
        log.warning("%s: key %r is missing, taken as %d", where, KEY_VERSION, VERSIONS[SIBLINGS])
    elif version not in VERSIONS.values():
        known = " and ".join(map(str, VERSIONS.values()))
        raise GgufError(f"{where}: {KEY_VERSION} is {version}, this tool knows {known} only")
    if kind is None and version == VERSIONS[NESTED]:
        raise GgufError(f"{where}: {KEY_KIND} is missing, which a twin of version {version} must have")
    kind = SIBLINGS if kind is None else kind
    if kind not in VERSIONS:
        raise GgufError(f"{where}: {KEY_KIND} is {kind!r}, this tool knows {' and '.join(VERSIONS)} only")
    if (version or VERSIONS[SIBLINGS]) < VERSIONS[kind]:
        raise GgufError(f"{where}: {KEY_KIND} is {kind!r}, which version {version or 1} does not have")
    return kind


def split_variant(name: str, kind: str = SIBLINGS) -> tuple[str, int]:
    """Canonical name and variant number of a tensor's name: `x.v1` -> (`x`, 1), `x` -> (`x`, 0); nested: `x.r1`.

    Raises
    ------
    ValueError
        for `.v0` and leading zeros.
    """
    match = re.fullmatch(rf"(.*)\.{LETTERS[kind]}([0-9]+)", name, re.ASCII | re.DOTALL)
    if not match:
        return name, 0
    if match[2].startswith("0"):
        raise ValueError("variants count from 1, without leading zeros")
    return match[1], int(match[2])


def variant_name(name: str, number: int, kind: str = SIBLINGS) -> str:
    """The name under which variant `number` of group `name` is stored, or what makes it of variant 0."""
    return f"{name}.{LETTERS[kind]}{number}" if number else name


def refined(base: Tensor, plane: Tensor) -> Tensor:
    """What a tensor of IQ3_A770 and its plane are together: blocks of both in turn."""
    parts = (
        Strand(base.sources[0], IQ3_A770_BYTES, 0, IQ3_A770_BYTES),
        Strand(plane.sources[0], IQ3_A770_R_BYTES, 0, IQ3_A770_R_BYTES),
    )
    return Tensor(base.name, base.shape, IQ4_A770, Woven(parts))


def split_refined(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse, of a tensor of IQ4_A770: what `<name>` and `<name>.r1` hold in a nested twin."""
    base = Strand(tensor.sources[0], IQ4_A770_BYTES, 0, IQ3_A770_BYTES)
    plane = Strand(tensor.sources[0], IQ4_A770_BYTES, IQ3_A770_BYTES, IQ3_A770_R_BYTES)
    return (
        Tensor(tensor.name, tensor.shape, IQ3_A770, Woven((base,))),
        Tensor(variant_name(tensor.name, 1, NESTED), tensor.shape, IQ3_A770_R, Woven((plane,))),
    )


def find_groups(gguf: Gguf, kind: str, count: int) -> dict[str, dict[int, Tensor]]:
    """Groups of variants: canonical name -> variant -> tensor; raises GgufError where they break the format."""
    if kind == NESTED and count != 2:
        raise GgufError(f"{gguf.path}: {KEY_COUNT} is {count}, but a nested twin has 2 variants")
    groups: dict[str, dict[int, Tensor]] = {}
    for tensor in gguf.tensors:
        try:
            name, number = split_variant(tensor.name, kind)
            _check_kind(tensor, number, kind)
        except ValueError as error:
            raise _fault(gguf, tensor, error) from None
        groups.setdefault(name, {})[number] = tensor
        if number >= count:
            raise _fault(gguf, tensor, f"{KEY_COUNT} is {count}")
    groups = {name: variants for name, variants in groups.items() if set(variants) != {0}}
    if not groups:
        raise GgufError(f"{gguf.path}: {KEY_COUNT} is {count}, but no tensor has variants")
    for name, variants in groups.items():
        _check_group(gguf, name, variants, count)
        if kind == NESTED:
            variants[1] = refined(variants[0], variants[1])
    return groups


def _check_kind(tensor: Tensor, number: int, kind: str) -> None:
    """Raise a ValueError where a tensor is not what its name says in a twin of this kind."""
    if kind == SIBLINGS:
        if tensor.type == IQ3_A770_R:
            raise ValueError(f"is a plane ({tensor.type_name}), which a twin of siblings has none of")
    elif split_variant(tensor.name)[1]:
        raise ValueError("is a whole sibling, which a nested twin has none of")
    elif (number > 0) != (tensor.type == IQ3_A770_R):
        raise ValueError(f"is {tensor.type_name}: planes, and they alone, are {NAMES[IQ3_A770_R]} and named .r1")


def _check_group(gguf: Gguf, name: str, variants: dict[int, Tensor], count: int) -> None:
    some = next(iter(variants.values()))
    if 0 not in variants:
        raise _fault(gguf, some, f"its canonical tensor {name!r} is missing")
    for number in range(count):
        if number not in variants:
            raise _fault(gguf, some, f"has no variant {number}, but {KEY_COUNT} is {count}")
        if variants[number].shape != variants[0].shape:
            shapes = f"{list(variants[number].shape)}, that of variant 0 {list(variants[0].shape)}"
            raise _fault(gguf, variants[number], f"its shape is {shapes}")
    if variants[count - 1].type == IQ3_A770_R and variants[0].type != IQ3_A770:
        raise _fault(gguf, variants[0], f"is {variants[0].type_name}, but has a plane, which is for {NAMES[IQ3_A770]}")


def _fault(gguf: Gguf, tensor: Tensor, reason: object) -> GgufError:
    return GgufError(f"{gguf.path}: tensor {tensor.name!r}: {reason}")
