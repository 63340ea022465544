"""Memory of cards: known sizes, and what must hold for every split of layers."""

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_files import nex_n2_mini
from prune_dual import (
    GIB,
    MIB,
    Gguf,
    GgufError,
    Memory,
    Model,
    Settings,
    Span,
    Tensor,
    Twin,
    Weights,
    encode_kv,
    plan,
    select,
    tensor_split,
)

RESERVE = GIB // 2


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Twin:
    return Twin.read(nex_n2_mini(tmp_path_factory.mktemp("mini") / "twin.gguf", twin=True))


def test_nex_n2_mini(mini):
    model = Model.of(mini.gguf)
    assert [il for il, full in enumerate(model.attention) if full] == list(range(3, 40, 4))
    memory = Memory(model, Settings(ctx=8192, flash_attn=True))
    # per token 2 x 512 numbers of two bytes in 10 layers
    assert memory.kv(0, 40) == 8192 * 2 * 512 * 2 * 10
    assert memory.rs(0, 40) == 30 * 4 * (3 * 8192 + 128 * 4096)
    # as the engine logs it for these shapes; most are the logits
    assert memory.compute(0, 41) / MIB == pytest.approx(497, abs=0.01)
    assert 512 * 248320 * 4 / MIB == 485
    q8 = Memory(model, Settings(ctx=8192, cache_type_k="q8_0", cache_type_v="q8_0"))
    assert q8.kv(0, 40) * 32 == memory.kv(0, 40) * 17


def test_ctx_and_sequences_are_rounded_as_the_engine_does(mini):
    model = Model.of(mini.gguf)
    assert Settings(ctx=5000).cells == 5120
    assert Settings(ctx=5000, parallel=3).cells == 1792
    assert Memory(model, Settings(parallel=4)).rs(0, 40) == 4 * Memory(model, Settings()).rs(0, 40)


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "ssm.inner_size", "full_attention_interval"])
def test_a_missing_key_is_named(tmp_path, key):
    twin = Twin.read(nex_n2_mini(tmp_path / "twin.gguf", twin=True, without=key))
    with pytest.raises(GgufError, match=f"key 'qwen35moe.{key}' is missing"):
        plan(twin, [16 * GIB], Settings(), RESERVE)


def test_settings_that_the_engine_refuses():
    with pytest.raises(GgufError, match="needs flash attention"):
        Settings(cache_type_v="q8_0", flash_attn=False)
    with pytest.raises(GgufError, match="--cache-type-k is 'q3_k'"):
        Settings(cache_type_k="q3_k")


def test_embeddings_are_on_no_card_but_tied_ones(mini):
    tensors = mini.phase(0)
    weights = Weights.of(tensors, 40)
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight").nbytes
    assert weights.host == embedding
    tied = Weights.of([tensor for tensor in tensors if tensor.name != "output.weight"], 40)
    assert (tied.host, tied.output) == (weights.host, weights.output)  # both are of one shape and type


@pytest.mark.parametrize(("ctx", "feasible"), [(8192, True), (32768, True), (65536, False)])
def test_the_16_gib_card(mini, ctx, feasible):
    if feasible:
        assert plan(mini, [16 * GIB], Settings(ctx=ctx), RESERVE).cards[0].free >= 0
    else:
        with pytest.raises(GgufError, match=r"smallest --vram-gib is 17\.\d+, or try a smaller --ctx"):
            plan(mini, [16 * GIB], Settings(ctx=ctx), RESERVE)


def test_the_smallest_size_that_is_named_does(mini):
    with pytest.raises(GgufError) as error:
        plan(mini, [14 * GIB], Settings(), RESERVE)
    size = float(str(error.value).split("smallest --vram-gib is ")[1].split(",")[0])
    assert plan(mini, [int(size * GIB)], Settings(), RESERVE)
    with pytest.raises(GgufError):
        plan(mini, [int((size - 0.01) * GIB)], Settings(), RESERVE)


def test_a_card_within_the_reserve_is_refused(mini):
    with pytest.raises(GgufError, match="nothing left after the reserve"):
        plan(mini, [16 * GIB, RESERVE], Settings(), RESERVE)


# the engine's rule


def f32(number: float) -> float:
    return struct.unpack("<f", struct.pack("<f", number))[0]


def engine_devices(split: str, n_layers: int, n_devices: int) -> list[int]:
    """Device of each layer: load_tensors of llama-model.cpp, step by step in floats."""
    given_ = [f32(float(part)) for part in split.split(",")]
    splits = given_ + [0.0] * (n_devices - len(given_))
    total = 0.0
    for i, part in enumerate(splits):
        total = f32(total + part)
        splits[i] = total
    splits = [f32(part / total) for part in splits]
    devices = []
    for layer in range(n_layers):
        share = f32(f32(float(layer)) / n_layers)
        # std::upper_bound: the first above
        devices.append(next((i for i, part in enumerate(splits) if part > share), n_devices))
    return devices


@settings(deadline=None, max_examples=500)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=8).filter(any))
def test_the_engine_places_layers_as_planned(counts):
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    planned = [card for card, count in enumerate(counts) for _ in range(count)]
    assert engine_devices(tensor_split(ends), sum(counts), len(counts)) == planned


SMALL = {
    "embedding_length": 64,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "expert_count": 4,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 2,
    "ssm.inner_size": 32,
}


def small(n_layers: int, interval: int, sizes: list[tuple[int, int]]) -> Twin:
    """A twin of one group per layer with the given bytes of variant 0 and added by variant 1, without a file."""
    path = Path("made.gguf")
    facts = SMALL | {"block_count": n_layers, "full_attention_interval": interval}
    keys = [encode_kv("general.architecture", "str", "qwen35moe")]
    keys += [encode_kv(f"qwen35moe.{name}", "u32", value) for name, value in facts.items()]

    def tensor(name: str, nbytes: int) -> Tensor:
        return Tensor(name, (64, 1000), 0, Span(path, 0, nbytes))

    names = [f"blk.{layer}.ffn_up_exps.weight" for layer in range(n_layers)]
    groups = {
        name: {0: tensor(name, low), 1: tensor(f"{name}.v1", low + more)}
        for name, (low, more) in zip(names, sizes, strict=True)
    }
    tensors = [tensor("token_embd.weight", 50000), tensor("output.weight", 60000)]
    tensors += [variant for variants in groups.values() for variant in variants.values()]
    gguf = Gguf(path, 3, 32, {key.name: key for key in keys}, tensors, 0, False)
    return Twin(gguf, groups, 2, 0, 0, names, None)


@st.composite
def cases(draw):
    """A twin and cards, from far too small to more than enough."""
    n_layers = draw(st.integers(1, 9))
    unit = 100_000
    sizes = [(draw(st.integers(0, 9)) * unit, draw(st.integers(0, 9)) * unit) for _ in range(n_layers)]
    twin = small(n_layers, draw(st.integers(1, 4)), sizes)
    cards = draw(st.lists(st.integers(1, 80).map(lambda n: n * unit), min_size=1, max_size=4))
    flash = draw(st.sampled_from([None, True, False]))
    return twin, cards, Settings(draw(st.sampled_from([256, 1024])), ubatch=64, flash_attn=flash)


@settings(deadline=None, max_examples=300)
@given(cases())
def test_no_card_gets_more_than_it_has(case):
    twin, sizes, asked = case
    reserve = 50_000
    try:
        found = plan(twin, sizes, asked, reserve)
    except GgufError as error:
        assert "does not fit" in str(error)
        return
    memory = Memory(Model.of(twin.gguf), asked)
    taken = twin.take(found.selection.variants)
    weights = Weights.of(taken, memory.model.n_blocks)
    assert found.cards[0].first == 0
    assert found.cards[-1].last == memory.model.n_blocks + 1
    assert all(a.last == b.first for a, b in pairwise(found.cards))
    for card, size in zip(found.cards, sizes, strict=True):
        layers = (card.first, card.last)
        used = weights.on_cards(*layers) + memory.kv(*layers) + memory.rs(*layers)
        used += memory.compute(*layers, cards=len(sizes)) + reserve
        assert used <= size
        assert card.free == size - used
    assert found.selection.selected_bytes == sum(tensor.nbytes for tensor in taken)
    assert found.selection == select(twin, budget_bytes=found.selection.budget_bytes)
    if len(sizes) > 1:
        devices = engine_devices(found.tensor_split, memory.model.n_blocks + 1, len(sizes))
        assert [(card.first, card.last) for card in found.cards if card.last > card.first] == [
            (devices.index(device), len(devices) - devices[::-1].index(device)) for device in dict.fromkeys(devices)
        ]


@settings(deadline=None, max_examples=100)
@given(cases())
def test_one_card_is_used_as_far_as_the_order_allows(case):
    twin, sizes, asked = case
    try:
        found = plan(twin, sizes[:1], asked, 50_000)
    except GgufError:
        return
    spare = found.cards[0].free
    for name in twin.groups:
        if name not in found.selection.promoted and twin.delta(name, 1) > 0:
            # alignment may take up to 128 bytes of each
            assert twin.delta(name, 1) + 128 * len(twin.groups) > spare
