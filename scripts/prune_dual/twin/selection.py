"""THE selection rule: which variant of each group fits a budget."""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import MIB, GgufError
from .groups import KEY_PROMOTE, KEY_PROMOTE_ORDER, Twin

log = logging.getLogger("prune-dual")


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
