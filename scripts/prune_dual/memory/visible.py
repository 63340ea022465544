"""Which of the drivers' cards an engine would list, where there is none to ask.

Drivers do not tell for whose cards the engine is built, so only one maker's are taken. A runtime numbers cards in an
order of its own, CUDA by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID, and variables pick by number. So order and numbers
can be told where all cards are of one size, or CUDA is bound to PCI's order.
"""

import re
from collections.abc import Mapping, Sequence

from ..errors import GgufError, amount
from .devices import Card

# what each runtime heeds, one after the other; the engine's own GGML_VK_VISIBLE_DEVICES numbers what only Vulkan knows
VARIABLES = {
    "NVIDIA": ("CUDA_VISIBLE_DEVICES",),
    "AMD": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    "Intel": ("ONEAPI_DEVICE_SELECTOR",),
}
MAKERS = {"NVIDIA": "NVIDIA|GeForce|Quadro|Tesla", "AMD": "AMD|Radeon|Instinct", "Intel": "Intel|Arc"}
ASK = (
    "name the engine (--engine build/out/bin/llama-server) or pass the sizes as it lists them, such as --vram-gib 24,12"
)


def visible(cards: Sequence[Card], environ: Mapping[str, str]) -> list[Card]:
    """Return the cards that an engine would list, in its order.

    Parameters
    ----------
    cards
        by PCI address.
    environ
        the environment that the engine will run in.

    Raises
    ------
    GgufError
        if that cannot be known without the engine; says what to do.
    """
    makers: dict[str, list[Card]] = {}
    for card in cards:
        makers.setdefault(_maker(card), []).append(card)
    found = [left for maker, own in makers.items() if (left := _of_maker(maker, own, environ))]
    left = [card for own in found for card in own]
    if cards and not left:
        names = ", ".join(name for maker in makers for name in VARIABLES.get(maker, ()) if name in environ)
        raise GgufError(f"{names} hides all cards; unset it, or pass the size: --vram-gib 16")
    if len(found) > 1:
        raise GgufError(f"{_told(left)}: for which of them the engine is built is not known; {ASK}")
    return left


def _of_maker(maker: str, cards: list[Card], environ: Mapping[str, str]) -> list[Card]:
    known = len({card.total for card in cards}) == 1
    known |= maker == "NVIDIA" and environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    for variable in VARIABLES.get(maker, ()):
        words = environ.get(variable)
        if words is None or (variable == "ONEAPI_DEVICE_SELECTOR" and not (words := _level_zero(words))):
            continue
        picked = _picked(words, cards)
        # numbers of an order that is not known say nothing
        if not known and re.search(r"(^|,)\s*[0-9]+\s*(,|$)", words):
            raise GgufError(f"{_told(cards)}: which of them {variable}={words} means is not known; {ASK}")
        cards, known = picked, True
    if not known or (len(cards) > 1 and "GGML_VK_VISIBLE_DEVICES" in environ):
        raise GgufError(f"{_told(cards)}: in which order an engine lists them is not known; {ASK}")
    return cards


def _level_zero(selector: str) -> str:
    """The numbers in ONEAPI_DEVICE_SELECTOR; nothing where it takes all cards, or picks in other ways."""
    match = re.fullmatch(r"(?:level_zero|\*):([0-9]+(?:,[0-9]+)*)", selector.strip(), re.ASCII)
    return match[1] if match else ""


def _picked(words: str, cards: Sequence[Card]) -> list[Card]:
    """Cards by number, or by the begin of their UUID; a word that is neither ends the list, as CUDA has it."""
    picked: list[Card] = []
    for word in words.split(","):
        word = word.strip()
        if re.fullmatch("[0-9]+", word, re.ASCII):
            match = cards[int(word) : int(word) + 1]
        else:
            match = [card for card in cards if word and card.uuid.startswith(word)]
        if len(match) != 1 or match[0] in picked:
            break
        picked += match
    return picked


def _maker(card: Card) -> str:
    if card.source == "nvidia-smi":
        return "NVIDIA"
    return next((maker for maker, words in MAKERS.items() if re.search(words, card.name)), card.name)


def _told(cards: Sequence[Card]) -> str:
    return ", ".join(f"{card.name} of {amount(card.total or 0)}" for card in cards)
