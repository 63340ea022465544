"""The command line's options about cards: how much memory they have and how the engine will use it."""

import argparse
import json
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from ..errors import GIB, MIB, GgufError, amount
from ..memory.account import CACHE_TYPES, Model, Settings
from ..memory.cards import RESERVE_GIB, Plan, plan
from ..memory.devices import Card, card_sizes, detect, run_tool
from ..memory.listing import listed_cards
from ..memory.visible import visible
from ..twin.groups import Twin
from ..twin.selection import Selection, select
from .arguments import location

DEFAULTS = Settings()

log = logging.getLogger("prune-dual")


def gib(text: str) -> str:
    """Check a decimal number; it stays text, since a binary float would move the floor at whole MiB."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GiB such as 16 or 0.6")
    return text


def vram(text: str) -> str:
    """Check sizes of cards: numbers of GiB, one per card, or `auto`."""
    if text != "auto":
        for part in text.split(","):
            if not 0 < Fraction(gib(part)) < 10000:
                raise argparse.ArgumentTypeError(f"{part!r} is not the size of a card in GiB")
    return text


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what goes with --vram-gib."""
    options = parser.add_argument_group(
        "with --vram-gib", "what the card holds besides weights, as the engine's options"
    )
    options.add_argument(
        "--engine",
        type=location,
        metavar="PROGRAM",
        help="with auto: the engine's program, such as llama-server, whose cards count; without, drivers are asked",
    )
    options.add_argument(
        "-dev",
        type=_devices,
        default=(),
        metavar="D[,D...]",
        help="with --engine: take these of the devices that it lists, also integrated graphics or another backend's",
    )
    options.add_argument("--free", action="store_true", help="with auto: count on the memory that is free now")
    options.add_argument(
        "--ctx", type=_count, default=DEFAULTS.ctx, metavar="N", help="tokens of context (%(default)s)"
    )
    for end in "kv":
        options.add_argument(
            f"--cache-type-{end}", choices=CACHE_TYPES, default="f16", help=f"of the {end.upper()} cache (%(default)s)"
        )
    options.add_argument(
        "--ubatch", type=_count, default=DEFAULTS.ubatch, metavar="N", help="physical batch (%(default)s)"
    )
    options.add_argument(
        "--parallel", type=_count, default=DEFAULTS.parallel, metavar="N", help="sequences at once (%(default)s)"
    )
    options.add_argument(
        "--flash-attn", choices=("on", "off", "auto"), default="auto", help="auto: room for either (%(default)s)"
    )
    options.add_argument(
        "--reserve-gib",
        type=gib,
        default=RESERVE_GIB,
        metavar="R",
        help="of each card, for driver, kernels and scratch (%(default)s)",
    )


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program where an option stands without the one that it belongs to."""
    for name, given, other, there in (
        ("--free", args.free, "--vram-gib auto", args.vram_gib == "auto"),
        ("--engine", args.engine is not None, "--vram-gib auto", args.vram_gib == "auto"),
        ("-dev", args.dev, "--engine", args.engine is not None),
    ):
        if given and not there:
            parser.error(f"{name} goes with {other}")


def _devices(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of devices such as CUDA0 or CUDA0,CUDA1")
    return names


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def plan_for(twin: Twin, args: argparse.Namespace) -> Plan:
    """Make the plan that the options ask for; raises GgufError where nothing fits or no card is found.

    The engine takes whole MiB, so a plan that it is to carry out keeps to them.
    """
    devices: Sequence[str] = ()
    reserve = _bytes(args.reserve_gib)
    if args.vram_gib == "auto":
        cards, every = _find_cards(args)
        for card in cards:
            left = f", {amount(card.free)} free" if args.free and card.free is not None else ""
            log.info("found %s, %s%s (%s)", card.name, amount(card.total or 0), left, card.source)
        sizes = card_sizes(cards, free=args.free)
        if cards[0].device and min(sizes) <= reserve < max(sizes):
            full = ", ".join(card.name for card, size in zip(cards, sizes, strict=True) if size <= reserve)
            log.warning("%s: nothing left after the reserve, left out", full)
            cards = [card for card, size in zip(cards, sizes, strict=True) if size > reserve]
            sizes, every = card_sizes(cards, free=args.free), False
        if len(cards) > 1 or not every:
            devices = [card.device for card in cards if card.device]
    else:
        sizes = [_bytes(part) for part in args.vram_gib.split(",")]
    found = plan(twin, sizes, _settings(args), reserve, MIB if args.engine_flags else 1)
    return replace(found, devices=devices)


def _find_cards(args: argparse.Namespace) -> tuple[list[Card], bool]:
    """The cards, and whether the engine would take just these by itself."""
    if args.engine is not None:
        listed = listed_cards(args.engine, args.dev, run_tool, detect)
        if listed:
            if not listed[0]:
                raise GgufError(f"{args.engine} lists no graphics card that counts; pass the size: --vram-gib 16")
            return listed
        if args.dev:
            raise GgufError(f"{args.engine} does not list its devices, so -dev {','.join(args.dev)} says nothing")
        log.warning("%s does not list its devices, so drivers are asked", args.engine)
    return visible(detect(), os.environ), True


def card_fits(twin: Twin, args: argparse.Namespace) -> Callable[[int], Selection]:
    """Return what selects for one card of so many GiB, as plan_for does; it raises GgufError where nothing fits.

    Of a file without the metadata for an account, all but the reserve is for weights.
    """
    settings, reserve = _settings(args), _bytes(args.reserve_gib)
    try:
        Model.of(twin.gguf)
    except GgufError:
        return lambda card: select(twin, budget_bytes=max(1, card * GIB - reserve))
    return lambda card: plan(twin, [card * GIB], settings, reserve).selection


def _settings(args: argparse.Namespace) -> Settings:
    flash = {"on": True, "off": False, "auto": None}[args.flash_attn]
    return Settings(args.ctx, args.cache_type_k, args.cache_type_v, args.ubatch, args.parallel, flash)


def _bytes(text: str) -> int:
    return math.floor(Fraction(text) * GIB)


def account_json(plan: Plan) -> str:
    """The selection's facts and the account as one line of JSON."""
    return json.dumps(json.loads(plan.selection.json()) | {"account": plan.facts()}, ensure_ascii=False)


def account_text(plan: Plan) -> str:
    """The account for people."""
    lines = [f"with {plan.settings.ctx} tokens of context:", plan.table()]
    lines.append(f"{amount(plan.host)} of weights, the input embeddings, stay in the machine's memory")
    lines.append(f"start the engine with: {' '.join(plan.flags)}")
    return "\n".join(lines)
