"""What is asked of our types beside stock ones on the CPU, and what rounds of samples come to; runs no program."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UserError

STOCK = ("IQ3_XXS", "Q3_K", "IQ3_S", "IQ4_XS", "Q4_K")
# IQ4_A770 as a nested twin has it, base and plane apart: read where they lie, not repacked
IN_PLACE = "IQ4_A770-nested"
# ours -> what they are compared with: stock types that one may have in their place
BESIDE = {"IQ3_A770": STOCK, "IQ4_A770": ("IQ4_XS", "Q4_K"), IN_PLACE: ("IQ4_XS", "Q4_K")}
KINDS = (*BESIDE, *STOCK)
# test-quantize-perf: cycles, the less the better; llama-bench: tokens per second
DOT, PROMPT, DECODE = "dot", "pp512", "tg64"
N_PROMPT, N_GEN = 512, 64


@dataclass(frozen=True)
class Goal:
    """How many times as fast as `base` a type of ours should be: `least` is asked, `stretch` hoped for."""

    type: str
    test: str
    base: str
    least: float | None
    stretch: float | None = None


GOALS = (
    Goal("IQ3_A770", DOT, "Q3_K", 1.2, 1.5),
    Goal("IQ3_A770", DECODE, "Q3_K", 1.1),
    Goal("IQ3_A770", DECODE, "IQ3_S", 1.5),
    Goal("IQ3_A770", DECODE, "IQ3_XXS", 1.6),
    Goal("IQ3_A770", DECODE, "Q4_K", 1.1),
    Goal("IQ3_A770", PROMPT, "Q3_K", 1.5),
    Goal("IQ3_A770", PROMPT, "IQ3_S", 2.5),
    Goal("IQ3_A770", PROMPT, "Q4_K", None, 0.9),
    Goal("IQ4_A770", DECODE, "Q4_K", 1.0, 1.15),
    Goal("IQ4_A770", PROMPT, "Q4_K", 1.0, 1.15),
    Goal(IN_PLACE, DECODE, "Q4_K", 1.0, 1.15),
    Goal(IN_PLACE, PROMPT, "Q4_K", 1.0, 1.15),
)


@dataclass(frozen=True)
class Round:
    """One sample of everything: read bandwidth in GB/s, and test -> type -> cycles or tokens per second.

    Planes apart have no dot product: it takes one row.
    """

    gb_s: float
    samples: dict[str, dict[str, float]]

    def ratio(self, test: str, kind: str, base: str) -> float:
        """How many times as fast as `base` the type `kind` of ours was."""
        ours, theirs = (self.samples[test][one] for one in (kind, base))
        return theirs / ours if test == DOT else ours / theirs


def tests_of(kind: str) -> tuple[str, ...]:
    """The tests that a type is put to."""
    return (DECODE, PROMPT) if kind == IN_PLACE else (DOT, DECODE, PROMPT)


def spread(values: Sequence[float]) -> float:
    """Interquartile range over the median."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def unsettled(rounds: Sequence[Round], limit: float) -> list[str]:
    """Return the goals whose ratios spread more than `limit`, worst first, each with its spread."""
    spreads = {
        f"{goal.type} {goal.test} / {goal.base}": spread([one.ratio(goal.test, goal.type, goal.base) for one in rounds])
        for goal in GOALS
    }
    worst = sorted(spreads, key=spreads.__getitem__, reverse=True)
    return [f"{name} {100 * spreads[name]:.1f} %" for name in worst if spreads[name] > limit]


def turn(kinds: Sequence[str], number: int) -> list[str]:
    """Each round begins with another type: none is always measured after the same one has warmed the machine."""
    start = number % len(kinds)
    return [*kinds[start:], *kinds[:start]]


# ---------------------------------------------------------------- reading what programs print


def parse_cycles(output: str) -> float:
    """Read test-quantize-perf: cycles per 32 weights in the fastest of its iterations.

    Raises
    ------
    UserError
        if it counted none.
    """
    found = re.findall(r"min cycles/32 vals +: +([\d.]+)", output)
    if len(found) != 1 or float(found[0]) == 0:
        raise UserError("test-quantize-perf counted no cycles; it does so on x86 only, and for types that it knows")
    return float(found[0])


def parse_bandwidth(output: str) -> float:
    """Read stream_read: GB/s of its fastest pass."""
    return max(map(float, re.findall(r"([\d.]+) GB/s", output)))


def parse_buffers(output: str) -> dict[str, float]:
    """Read llama-bench -v: MiB of weights per kind of buffer; repacked weights are in one of their own."""
    found = re.findall(r"load_tensors: +(\w+) model buffer size = +([\d.]+) MiB", output)
    return {name: float(mib) for name, mib in found}


# ---------------------------------------------------------------- what it comes to


def speed_rows(rounds: Sequence[Round], token_bytes: dict[str, int]) -> list[dict[str, Any]]:
    """Medians per type and spreads per test; GB/s and the share of the bandwidth are those of weights in generation."""
    rows = []
    for kind, nbytes in token_bytes.items():
        row: dict[str, Any] = {"type": kind, "spread": {}}
        for test in tests_of(kind):
            samples = [one.samples[test][kind] for one in rounds]
            row[test] = statistics.median(samples)
            row["spread"][test] = spread(samples)
        rates = [1e-9 * nbytes * one.samples[DECODE][kind] for one in rounds]
        row["gb_s"] = statistics.median(rates)
        row["of_bandwidth"] = statistics.median(rate / one.gb_s for rate, one in zip(rates, rounds, strict=True))
        rows.append(row | {"token_bytes": nbytes})
    return rows


def ratio_rows(rounds: Sequence[Round], token_bytes: dict[str, int]) -> list[dict[str, Any]]:
    """Ours beside stock types: median and spread of the rounds' own ratios, what was asked, what bytes allow."""
    goals = {(goal.type, goal.test, goal.base): goal for goal in GOALS}
    rows = []
    for test in (DOT, DECODE, PROMPT):
        pairs = [(ours, base) for ours, bases in BESIDE.items() if test in tests_of(ours) for base in bases]
        for kind, base in pairs:
            ratios = [one.ratio(test, kind, base) for one in rounds]
            goal = goals.get((kind, test, base))
            row = {"type": kind, "test": test, "base": base}
            row |= {"ratio": statistics.median(ratios), "spread": spread(ratios)}
            row |= {"least": goal and goal.least, "stretch": goal and goal.stretch}
            rows.append(row | {"bytes_allow": token_bytes[base] / token_bytes[kind] if test == DECODE else None})
    return rows


def missed(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return what was asked and not reached."""
    short = [row for row in rows if row["least"] and row["ratio"] < row["least"]]
    return [
        f"{row['type']} {row['test']} / {row['base']} {row['ratio']:.2f}, asked {row['least']:.2f}" for row in short
    ]
