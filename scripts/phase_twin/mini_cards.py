"""What cards of common sizes get of a twin of Nex-N2-mini: the account of prune-dual, for the model's shapes alone."""

from collections.abc import Sequence
from pathlib import Path

from prune_dual import (
    GIB,
    IQ3_A770,
    KEY_COUNT,
    KEY_PROMOTE_ORDER,
    KEY_PROMOTE_TIE,
    KEY_VERSION,
    RESERVE_GIB,
    SIBLINGS,
    VERSIONS,
    Gguf,
    GgufError,
    Plan,
    Settings,
    Span,
    Tensor,
    Twin,
    encode_kv,
    plan,
    tensor_nbytes,
    type_kv,
    variant_name,
)
from shape_model import D_MODEL, LAYERS, Q6_K, SIZES, TYPES, VOCABULARY, layer_shapes, tensor_type

VARIANTS = (IQ3_A770, TYPES["Q4_K"])  # of the experts, as config/config.yaml has them; the rest is Q6_K
CARDS = ((8,), (12,), (16,), (24,), (16, 16))  # GiB
CONTEXTS = (8192, 32768, 131072)
RESERVE = int(float(RESERVE_GIB) * GIB)
MOST = 64 * GIB  # a card on which everything fits


def twin_of_shapes() -> Twin:
    """The twin of Nex-N2-mini without data; gate and up of a layer are tied, and the first layers promoted first."""
    path = Path("Nex-N2-mini-twin.gguf")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (D_MODEL, VOCABULARY),
        "output.weight": (D_MODEL, VOCABULARY),
        "output_norm.weight": (D_MODEL,),
    }
    for layer in range(LAYERS):
        shapes |= layer_shapes(layer)
    groups = [f"blk.{layer}.ffn_{name}_exps.weight" for layer in range(LAYERS) for name in ("gate", "up", "down")]
    ties = [2 * layer + down for layer in range(LAYERS) for down in (0, 0, 1)]

    def tensor(name: str, shape: tuple[int, ...], kind: int) -> Tensor:
        return Tensor(name, shape, kind, Span(path, 0, tensor_nbytes(shape, kind)))

    tensors = [tensor(name, shape, tensor_type(name, shape, VARIANTS[0], Q6_K)) for name, shape in shapes.items()]
    tensors += [tensor(variant_name(name, 1), shapes[name], VARIANTS[1]) for name in groups]
    keys = [encode_kv("general.architecture", "str", "qwen35moe")]
    keys += [encode_kv(f"qwen35moe.{name}", "u32", value) for name, value in (SIZES | {"block_count": LAYERS}).items()]
    keys += [
        *type_kv(VARIANTS),
        encode_kv(KEY_VERSION, "u32", VERSIONS[SIBLINGS]),
        encode_kv(KEY_COUNT, "u32", len(VARIANTS)),
        encode_kv(KEY_PROMOTE_ORDER, "[str]", groups),
        encode_kv(KEY_PROMOTE_TIE, "[u32]", ties),
    ]
    return Twin.of(Gguf(path, 3, 32, {key.name: key for key in keys}, tensors, 0, False))


def settings(ctx: int) -> Settings:
    """Caches of f16, one sequence, and flash attention."""
    return Settings(ctx=ctx, flash_attn=True)


def fit(twin: Twin, sizes: Sequence[int], ctx: int) -> Plan | None:
    """The plan for cards of `sizes` bytes; None where not even variant 0 fits."""
    try:
        return plan(twin, sizes, settings(ctx), RESERVE)
    except GgufError:
        return None


def smallest(twin: Twin, ctx: int, promoted: int) -> float:
    """GiB of the smallest card, in tenths, on which at least so many groups are promoted."""
    low, high = 0, MOST * 10 // GIB
    while high - low > 1:
        middle = (low + high) // 2
        found = fit(twin, [middle * GIB // 10], ctx)
        low, high = (low, middle) if found and len(found.selection.promoted) >= promoted else (middle, high)
    return high / 10


def cards_table() -> tuple[list[str], list[list[str]]]:
    """Return head and rows: cards, and what they hold at each context."""
    twin = twin_of_shapes()
    rows = []
    for card in CARDS:
        name = f"{len(card)} x {card[0]}" if len(card) > 1 else f"{card[0]}"
        plans = [fit(twin, [size * GIB for size in card], ctx) for ctx in CONTEXTS]
        rows.append([f"{name} GiB", *(_cell(found, len(twin.groups)) for found in plans)])
    for label, promoted in (("smallest card", 0), ("smallest card for all promoted", len(twin.groups))):
        rows.append([label, *(f"{smallest(twin, ctx, promoted):.1f} GiB" for ctx in CONTEXTS)])
    return ["card", *(f"{ctx:,} tokens" for ctx in CONTEXTS)], rows


def _cell(found: Plan | None, groups: int) -> str:
    if found is None:
        return "does not fit"
    return f"{found.selection.selected_bytes / GIB:.2f} GiB, {len(found.selection.promoted)} of {groups}"
