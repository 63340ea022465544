"""The graphics cards that an engine lists: those it will use, in its order, with the memory that it sees.

`llama-server --list-devices`, or another program of the engine, prints after a head one line for each device:

    Available devices:
      CUDA0: NVIDIA GeForce RTX 4090 (24077 MiB, 23600 MiB free)

Order and visibility variables (CUDA_DEVICE_ORDER, CUDA_VISIBLE_DEVICES and the like) are its runtimes' business. It
does not list which devices are integrated graphics; their names tell.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import MIB, GgufError
from .devices import Card, Run, alike, known

log = logging.getLogger("prune-dual")

# Graphics that never pay, and those that count where there is no other card. AMD's runtime calls cards that it has no
# name for "AMD Radeon Graphics", too. run-nx2.sh has the same two.
WEAK = "UHD|Iris|HD Graphics"
INTEGRATED = (
    r"Arc\([Tt][Mm]\) Graphics|1[34]0[TV]|B3[0-9]0 GPU|Intel\(R\) Graphics|Custom GPU"
    r"|Radeon(\([Tt][Mm]\))?( Vega [0-9]+)?( [0-9]+[MS])?( Graphics|$| \(RADV)"
)


def parse_listing(text: str) -> list[Card] | None:
    """Return all devices of a listing; None where it is none. Sizes of zero are not known."""
    if "Available devices:" not in text:
        return None
    lines = re.findall(
        r"^\s*([A-Za-z]+[0-9]+): (.*) \(([0-9]+) MiB, ([0-9]+) MiB free\)\s*$", text, re.MULTILINE | re.ASCII
    )
    return [
        Card(name, int(total) * MIB or None, int(free) * MIB if int(total) else None, source=device, device=device)
        for device, name, total, free in lines
    ]


def choose(cards: Sequence[Card], asked: Sequence[str] = ()) -> list[Card]:
    """Return the cards that a model is for: those asked for, or one backend's without integrated graphics.

    Raises
    ------
    GgufError
        if one that is asked for is not listed.
    """
    if asked:
        named = {card.device: card for card in cards}
        for name in asked:
            if name not in named:
                listed = ", ".join(named) or "none"
                raise GgufError(f"-dev names {name}, which the engine does not list; it lists {listed}")
        return [named[name] for name in asked]
    strong = [card for card in cards if not re.search(WEAK, card.name)]
    strong = [card for card in strong if not re.search(INTEGRATED, card.name)] or strong
    return [card for card in strong if _backend(card) == _backend(strong[0])]


def _backend(card: Card) -> str:
    return card.device.rstrip("0123456789")


def listed_cards(
    program: str, asked: Sequence[str], run: Run, drivers: Callable[[], Sequence[Card]]
) -> tuple[list[Card], bool] | None:
    """Ask the engine.

    Parameters
    ----------
    asked
        the devices to take, all that count if empty.
    drivers
        returns what drivers say, for sizes that the engine does not know.

    Returns
    -------
    cards
        those to use whose memory is known, or None where the engine does not say.
    all
        whether it lists no others.
    """
    listed = parse_listing(run([program, "--list-devices"]))
    if listed is None:
        return None
    chosen = choose(listed, asked)
    others = [f"{card.device} ({card.name})" for card in listed if card not in chosen]
    if others and not asked:
        log.info("not counted: %s; -dev takes what it names", ", ".join(others))
    if any(card.total is None for card in chosen):
        chosen = known([_filled(card, drivers()) for card in chosen])
    return chosen, len(chosen) == len(listed)


def _filled(card: Card, drivers: Sequence[Card]) -> Card:
    """With the size that drivers give cards of this name, if they agree."""
    totals = {other.total for other in drivers if alike(other.name, card.name)}
    return replace(card, total=totals.pop()) if card.total is None and len(totals) == 1 else card
