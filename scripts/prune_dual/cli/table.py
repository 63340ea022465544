"""What would fit common cards: a table for people who choose a budget."""

import json
import logging
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ..errors import MIB, GgufError, amount
from ..transport.source import Source
from ..twin.selection import Selection

log = logging.getLogger("prune-dual")

CARDS_GIB = (8, 12, 16, 20, 24, 32, 48)
CURVE_NAME = "curve.json"
MAX_CURVE_NBYTES = 8 * MIB


@dataclass(frozen=True)
class Curve:
    """Predicted KLD against bytes of weights, as far as it was measured."""

    nbytes: list[float]  # ascending
    kld: list[float]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read `{"points": [{"bytes": ..., "kld_predicted": ...}]}`; raises ValueError saying what is wrong."""
        try:
            points = {float(p["bytes"]): float(p["kld_predicted"]) for p in json.loads(text)["points"]}
        except (TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"no list of points with bytes and kld_predicted ({error})") from None
        if not all(math.isfinite(number) for point in points.items() for number in point):
            raise ValueError("a number is not finite")
        if not points:
            raise ValueError("it has no points")
        return cls(sorted(points), [points[nbytes] for nbytes in sorted(points)])

    def at(self, nbytes: float) -> float | None:
        """The KLD at `nbytes`, linear between two points; None outside of them."""
        n = bisect_left(self.nbytes, nbytes)
        if n == len(self.nbytes) or (n == 0 and nbytes < self.nbytes[0]):
            return None
        if self.nbytes[n] == nbytes:
            return self.kld[n]
        share = (nbytes - self.nbytes[n - 1]) / (self.nbytes[n] - self.nbytes[n - 1])
        return self.kld[n - 1] + share * (self.kld[n] - self.kld[n - 1])


def find_curve(source: Source) -> Curve | None:
    """The curve beside the twin, if there is a readable one."""
    text = source.neighbour(CURVE_NAME, MAX_CURVE_NBYTES)
    if text is None:
        return None
    try:
        return Curve.parse(text)
    except ValueError as error:
        log.warning("%s beside %s: not a readable curve: %s", CURVE_NAME, source.where, error)
        return None


def card_table(source: Source, fits: Callable[[int], Selection], asked: Selection) -> str:
    """One row per common card that the twin fits, up to the first that takes all of it, and one for what was asked.

    `fits` selects for a card of so many GiB and raises GgufError where the twin does not fit.
    """
    twin = source.twin
    rows: list[tuple[str, Selection]] = []
    most = sum(max(twin.delta(name, number) for number in twin.groups[name]) for name in twin.groups)
    for card in CARDS_GIB:
        try:
            selection = fits(card)
        except GgufError:
            continue  # even the small variants do not fit
        rows.append((f"{card} GiB", selection))
        if selection.selected_bytes - selection.variant0_bytes >= most:
            break
    rows.append(("as asked", asked))
    curve = find_curve(source)
    remote = source.fetched_nbytes(asked) > 0
    heads = ["card", "room for weights", "promoted", "weights", "of the promotion"]
    heads += ["to fetch"] * remote + ["predicted KLD"] * (curve is not None)
    lines = [heads]
    for name, selection in rows:
        gained = selection.selected_bytes - selection.variant0_bytes
        cells = [
            name,
            f"{selection.budget_bytes // MIB} MiB" if selection.budget_bytes else "-",
            f"{len(selection.promoted)} of {len(twin.groups)}",
            amount(selection.selected_bytes),
            f"{100 * gained / most:.0f} %" if most > 0 else "-",
        ]
        if remote:
            cells.append(amount(source.fetched_nbytes(selection)))
        if curve is not None:
            kld = curve.at(selection.selected_bytes)
            cells.append("-" if kld is None else f"{kld:.4f}")
        lines.append(cells)
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
