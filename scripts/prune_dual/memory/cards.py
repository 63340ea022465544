"""A selection and a split of layers for cards of given sizes: no card gets more than it has."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..errors import GIB, MIB, GgufError, amount
from ..twin.groups import Twin
from ..twin.selection import Selection, select
from .account import Memory, Model, Settings, Weights

# Kept free of each card where nothing else is said. It stands for what no log of the engine tells: the driver's and the
# runtime's own share (an A770 reports 0.16 GiB less than 16), kernels, and the scratch in which the backend unpacks
# matrices for products of many tokens (64 MiB for the widest layer of Nex-N2-mini in f32). An estimate: no card was
# measured for it.
RESERVE_GIB = "0.5"


@dataclass(frozen=True)
class Account:
    """What one card holds; bytes. `first` and `last` bound its layers; the number of blocks counts as the output."""

    size: int
    weights: int
    kv_cache: int
    recurrent_state: int
    compute_buffers: int
    reserve: int
    first: int
    last: int

    @property
    def free(self) -> int:
        """What is left; negative where the card is too small."""
        used = self.weights + self.kv_cache + self.recurrent_state + self.compute_buffers + self.reserve
        return self.size - used


@dataclass(frozen=True)
class Plan:
    """What goes where."""

    settings: Settings
    selection: Selection
    cards: list[Account]
    host: int  # bytes of weights that stay in host memory
    devices: Sequence[str] = ()  # the engine's names of the cards, where it would not take these by itself

    @property
    def tensor_split(self) -> str | None:
        """The value of -ts that makes the engine place the layers so; None for one card."""
        return tensor_split([card.last for card in self.cards]) if len(self.cards) > 1 else None

    @property
    def flags(self) -> list[str]:
        """The engine's options that the account holds for."""
        s = self.settings
        flags = ["-c", str(s.ctx), "-ub", str(s.ubatch), "-np", str(s.parallel)]
        flags += ["-ctk", s.cache_type_k, "-ctv", s.cache_type_v]
        if s.flash_attn is not None:
            flags += ["-fa", "on" if s.flash_attn else "off"]
        if self.devices:
            flags += ["-dev", ",".join(self.devices)]
        return flags + (["-sm", "layer", "-ts", self.tensor_split] if self.tensor_split else [])

    def facts(self) -> dict[str, Any]:
        """The account as plain data; bytes."""
        cards = [asdict(card) | {"free": card.free} for card in self.cards]
        return asdict(self.settings) | {"host_weights": self.host, "cards": cards, "flags": self.flags}

    def table(self) -> str:
        """The account for people, in GiB."""
        rows: list[tuple[str, list[str]]] = []
        if len(self.cards) > 1:
            rows.append(("card", [str(i) for i in range(len(self.cards))]))
            rows.append(("layers", [f"{c.first}-{c.last - 1}" if c.last > c.first else "none" for c in self.cards]))
        for name in ("weights", "kv_cache", "recurrent_state", "compute_buffers", "reserve", "free"):
            rows.append((name.replace("_", " ").replace("kv", "KV"), [_gib(getattr(c, name)) for c in self.cards]))
        rows.append(("card's memory", [_gib(card.size) for card in self.cards]))
        return "\n".join(f"  {name:16}" + "".join(f"{text:>10}" for text in texts) for name, texts in rows)


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB"


def tensor_split(ends: Sequence[int]) -> str:
    """The value of -ts that gives card i the layers up to `ends[i]`, the output layer included.

    The engine gives layer il of N to the first card whose share of the sum, added up, is above il / N, in floats. Each
    threshold is put half way between two layers, where rounding cannot reach it.
    """
    marks = [0.0, *(end - 0.5 if end else 0.0 for end in ends[:-1]), float(ends[-1])]
    return ",".join(f"{high - low:g}" for low, high in pairwise(marks))


@dataclass(frozen=True)
class _Cards:
    """The cards, and the model whose layers they share."""

    memory: Memory
    sizes: Sequence[int]
    reserve: int

    @cached_property
    def n_layers(self) -> int:
        return self.memory.model.n_blocks + 1

    def account(self, card: int, first: int, last: int, weights: Weights) -> Account:
        memory = self.memory
        return Account(
            size=self.sizes[card],
            weights=weights.on_cards(first, last),
            kv_cache=memory.kv(first, last),
            recurrent_state=memory.rs(first, last),
            compute_buffers=memory.compute(first, last, cards=len(self.sizes)),
            reserve=self.reserve,
            first=first,
            last=last,
        )

    def split(self, weights: Weights, spare: int = 0) -> list[Account] | None:
        """Contiguous layers for each card, with `spare` bytes left free on each that has any; None if there is no way.

        Each card takes as many layers as it can, so the last gets as few as there can be.
        """
        accounts, first = [], 0
        for card in range(len(self.sizes)):
            best = self.account(card, first, first, weights)
            low, high = first, self.n_layers
            while low < high:
                middle = (low + high + 1) // 2
                tried = self.account(card, first, middle, weights)
                if tried.free >= spare:
                    low, best = middle, tried
                else:
                    high = middle - 1
            accounts.append(best)
            first = best.last
        return accounts if first == self.n_layers else None

    def even_split(self, weights: Weights) -> list[Account] | None:
        """The split that leaves about the same room on all cards."""
        best = self.split(weights)
        if best is None or len(self.sizes) == 1:
            return best
        low, high = 0, max(self.sizes)
        while high - low > 8 * MIB:
            middle = (low + high) // 2
            found = self.split(weights, middle)
            if found:
                low, best = middle, found
            else:
                high = middle
        return best


def plan(twin: Twin, sizes: Sequence[int], settings: Settings, reserve: int, step: int = 1) -> Plan:
    """Choose variants and a split of layers for cards of `sizes` bytes, in the order in which the engine lists them.

    THE selection rule is applied to the largest budget, a multiple of `step` bytes, whose selection can be split so
    that every card holds its layers' weights, their caches and states, its compute buffer, and `reserve` bytes.

    Raises
    ------
    GgufError
        if the metadata does not do, or not even variant 0 fits; says what would.
    """
    for size in sizes:
        if size <= reserve:
            raise GgufError(f"a card of {amount(size)} has nothing left after the reserve of {amount(reserve)}")
    memory = Memory(Model.of(twin.gguf), settings)
    cards, blocks = _Cards(memory, sizes, reserve), memory.model.n_blocks
    lowest = twin.loaded(twin.phase(0))
    least = Weights.of(lowest, blocks)
    if cards.split(least) is None:
        raise GgufError(_too_small(twin, cards, least))
    # more than this no split can take
    budget = sum(sizes) - len(sizes) * reserve - memory.kv(0, blocks) - memory.rs(0, blocks) + least.host
    if len(sizes) == 1:
        budget -= memory.compute(0, blocks + 1)
    floor = sum(tensor.nbytes for tensor in lowest)
    while True:
        selection = select(twin, budget_bytes=max(budget // step * step, floor))
        weights = Weights.of(twin.loaded(twin.take(selection.variants)), blocks)
        split = cards.even_split(weights)
        if split:
            return Plan(settings, selection, split, weights.host)
        # the next smaller selection
        budget = selection.selected_bytes - 1


def _too_small(twin: Twin, cards: _Cards, weights: Weights) -> str:
    whole = cards.account(0, 0, cards.n_layers, weights)
    parts = f"weights {amount(whole.weights)}, KV cache {amount(whole.kv_cache)}"
    parts += f", recurrent state {amount(whole.recurrent_state)}, compute buffers {amount(whole.compute_buffers)}"
    parts += f" and a reserve of {amount(whole.reserve)}"
    s = cards.memory.settings
    if len(cards.sizes) > 1:
        have = " and ".join(amount(size) for size in cards.sizes)
        return (
            f"{twin.gguf.path}: does not fit cards of {have} with {s.ctx} tokens of context: "
            f"all together are {parts}, and each card has its own buffers and reserve; try a smaller --ctx"
        )
    need = whole.size - whole.free
    return (
        f"{twin.gguf.path}: does not fit {amount(whole.size)} with {s.ctx} tokens of context: {parts} "
        f"are {amount(need)}; the smallest --vram-gib is {-(-need * 100 // GIB) / 100:g}, or try a smaller --ctx"
    )
