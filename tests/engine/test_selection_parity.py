"""The engine's loader and our tools: the same selection for every twin and budget, the same refusals."""

import json
import random
import subprocess

import pytest

from gguf_files import (
    BAD_IQ3_A770,
    BAD_OF_EITHER_KIND,
    BAD_RANKS,
    F32,
    IQ3_A770,
    IQ3_A770_R,
    IQ3_KEYS,
    IQ4_KEYS,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_0,
    Early,
    Raw,
    expert,
    nested_keys,
    published_twin,
    twin_keys,
    write,
)
from prune_dual import MIB, GgufError, Twin, select

pytestmark = pytest.mark.engine

TWINS = 1000
BUDGETS = 5
MTP_KEYS = ("block_count", "nextn_predict_layers")
PLANES = [IQ3_A770_R]
ROW = (256, 4096)  # 0.44 MiB at Q3_K: promotions are fractions and multiples of a MiB


@pytest.fixture(scope="session")
def variant_info(engine_bin):
    """Run llama-variant-info and return its records; it must end by itself, whatever the file."""

    def run(*arguments) -> list[dict]:
        command = [engine_bin("llama-variant-info"), *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
        assert done.returncode >= 0, f"killed by signal {-done.returncode}: {done.stderr[-500:]}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def random_twin(path, seed: int, types: list[int]):
    """A twin of holes with ties, missing and unknown and repeated order entries, zero and negative deltas.

    It is nested where the one type is that of planes.
    """
    dice = random.Random(seed)
    names = [expert(layer, kind) for layer in range(dice.randint(1, 4)) for kind in ("gate", "up", "down")]
    names = dice.sample(names, dice.randint(1, len(names)))
    tensors = [Raw("token_embd.weight", (256, dice.randint(1, 3000)), Q6_K)]
    for name in names:
        shape = (*ROW, dice.randint(1, 4))
        if types == PLANES:
            tensors += [Raw(name, shape, IQ3_A770), Raw(f"{name}.r1", shape, IQ3_A770_R)]
            continue
        low, high = (dice.choice(types) for _ in range(2))
        if dice.random() < 0.5:
            low, high = sorted((low, high), key=lambda kind: Raw("", shape, kind).nbytes)
        tensors += [Raw(name, shape, low), Raw(f"{name}.v1", shape, high)]
    dice.shuffle(tensors)
    order = dice.sample(names, dice.randint(0, len(names)))
    order += dice.choices([*names, "blk.99.ffn_up_exps.weight", "token_embd.weight"], k=dice.randint(0, 4))
    dice.shuffle(order)
    tie = [dice.randint(0, max(1, len(order) // 2)) for _ in order] if dice.random() < 0.6 else None
    keys = (nested_keys if types == PLANES else twin_keys)(order, tie, default=dice.randint(0, 1))
    if dice.random() < 0.3:
        # the last blocks are an MTP head's, which may have groups
        blocks = dice.randint(1, 4), dice.randint(0, 2)
        keys += [(f"qwen35moe.{name}", "u32", n) for name, n in zip(MTP_KEYS, blocks, strict=True)]
    own = IQ4_KEYS if types == PLANES else IQ3_KEYS if IQ3_A770 in types else []
    return write(path, keys + own, tensors)


def budgets(twin: Twin, seed: int) -> list[int]:
    """MiB from just too small to more than enough."""
    low = sum(tensor.nbytes for tensor in twin.loaded(twin.phase(0))) // MIB
    most = sum(max(0, twin.delta(name, 1)) for name in twin.groups) // MIB
    dice = random.Random(seed)
    return [max(1, low), *(low + 1 + dice.randint(0, most + 1) for _ in range(BUDGETS - 1))]


def assert_same(record: dict, twin: Twin, **request) -> int:
    """Compare one record with our selection; return the number of promotions."""
    try:
        ours = select(twin, **request)
    except GgufError as error:
        # the tools stop where the engine warns and takes variant 0
        assert "smallest feasible budget" in str(error)
        assert record["variant0_bytes"] > record["budget_bytes"]
        assert (record["promoted"], record["selected_bytes"]) == ([], record["variant0_bytes"])
        return 0
    theirs = {key: record[key] for key in ("budget_bytes", "variant0_bytes", "selected_bytes", "promoted")}
    theirs["budget_bytes"] = theirs["budget_bytes"] or 0  # null: none
    assert theirs == json.loads(ours.json())
    assert record["groups"] == len(twin.groups)
    return len(ours.promoted)


def compare(variant_info, folder, types: list[int], count: int) -> int:
    promotions = 0
    for seed in range(count):
        path = random_twin(folder / "twin.gguf", seed, types)
        twin = Twin.read(path)
        sizes = budgets(twin, seed)
        mtp = ["--mtp"] if seed % 2 else []
        twin = twin.with_mtp() if mtp else twin
        records = variant_info(*mtp, "--budget-mb", ",".join(map(str, sizes)), path)
        assert [record["budget_bytes"] for record in records] == [size * MIB for size in sizes], f"seed {seed}"
        for size, record in zip(sizes, records, strict=True):
            promotions += assert_same(record, twin, budget_bytes=size * MIB)
    return promotions


def test_random_twins_are_resolved_alike(variant_info, tmp_path):
    assert compare(variant_info, tmp_path, [Q3_K, Q4_K, Q5_K, Q6_K, Q8_0, F32], TWINS) > TWINS


def test_random_twins_with_iq3_a770_are_resolved_alike(variant_info, tmp_path):
    assert compare(variant_info, tmp_path, [IQ3_A770, Q3_K, Q4_K], 40) > 40


def test_random_nested_twins_are_resolved_alike(variant_info, tmp_path):
    assert compare(variant_info, tmp_path, PLANES, TWINS) > TWINS


@pytest.mark.parametrize("gate_up", [Q3_K, IQ3_A770, Early])
def test_the_published_twin(variant_info, tmp_path, gate_up):
    path = published_twin(tmp_path / "twin.gguf", gate_up)
    twin = Twin.read(path)
    sizes = [15400, 16400, 25000, *range(15361, 19500, 240)]
    records = variant_info("--budget-mb", ",".join(map(str, sizes)), path)
    counts = [assert_same(record, twin, budget_bytes=size * MIB) for size, record in zip(sizes, records, strict=True)]
    assert counts[:3] == [1, 24 if gate_up != Q3_K else counts[1], 96]
    assert max(counts) == 96


@pytest.mark.parametrize("ranks", ["", "0", "1,0", "0-2", "2,0-1,1"])
def test_promote_is_resolved_alike(variant_info, tmp_path, ranks):
    resolved = 0
    for seed in range(60):
        path = random_twin(tmp_path / "twin.gguf", seed, [Q3_K, Q4_K, Q6_K])
        twin = Twin.read(path)
        (record,) = variant_info("--override-kv", f"general.tensor_variant.promote=str:{ranks}", path)
        try:
            select(twin, promote=ranks)
        except GgufError:
            assert "promote" in record["error"]  # the order is shorter than that
            continue
        assert_same(record, twin, promote=ranks)
        resolved += 1
    assert resolved > 30


@pytest.mark.parametrize("number", [0, 1])
def test_default_is_resolved_alike(variant_info, tmp_path, number):
    path = random_twin(tmp_path / "twin.gguf", 5, [Q3_K, Q4_K, Q6_K])
    ours = select(Twin.read(path), variant=number)
    (record,) = variant_info("--override-kv", f"general.tensor_variant.default=int:{number}", path)
    assert record["selected_bytes"] == ours.selected_bytes
    assert sorted(record["promoted"]) == sorted(ours.promoted)  # no promotion order here: all at once


@pytest.mark.parametrize("case", BAD_OF_EITHER_KIND)
def test_bad_twin_is_refused_by_both(variant_info, tmp_path, case):
    build, _ = BAD_OF_EITHER_KIND[case]
    path = build(tmp_path / "bad.gguf")
    with pytest.raises(GgufError):
        Twin.read(path)
    (record,) = variant_info(path)
    assert record["file"] == str(path)
    assert record["error"]
    assert "promoted" not in record


@pytest.mark.parametrize("case", BAD_IQ3_A770)
def test_another_iq3_a770_is_refused_by_both(variant_info, tmp_path, case):
    build, words = BAD_IQ3_A770[case]
    path = build(tmp_path / "bad.gguf")
    with pytest.raises(GgufError):
        Twin.read(path)
    (record,) = variant_info(path)
    for word in words:
        assert word in record["error"]


@pytest.mark.parametrize("ranks", BAD_RANKS)
def test_bad_ranks_are_refused_by_both(variant_info, tmp_path, ranks):
    names = [expert(layer, "up") for layer in range(4)]
    tensors = [Raw(name + end, ROW, kind) for name in names for end, kind in (("", Q3_K), (".v1", Q4_K))]
    path = write(tmp_path / "twin.gguf", twin_keys(names), tensors)
    with pytest.raises(GgufError):
        select(Twin.read(path), promote=ranks)
    (record,) = variant_info("--override-kv", f"general.tensor_variant.promote=str:{ranks}", path)
    assert "promote" in record["error"]
