"""The order of promotion: scores from files and from measurements, and what is made of them."""

import itertools

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gguf_files
from gather_curve import predict
from gather_ranking import area, best_benefit, distance, measured_orders, shares
from gguf_files import IQ3_A770, Q4_K, Raw
from phase_twin.errors import UserError
from phase_twin.experts import expert_name as name
from phase_twin.experts import units
from phase_twin.iq3_a770 import decode
from phase_twin.mix import MAX_OVERRIDE, format_ranks, mix
from phase_twin.ordering import improve, walk
from prune_dual import Gguf, Twin, parse_ranks
from rank_groups import imatrix_energy, order_groups
from score_groups import at_random, by_layer, decoded, imatrix_energies, weighted_errors
from score_measured import benefit_errors, fit_benefits, sums


def test_energy_is_normalised_per_expert():
    sums = np.array([[4.0, 8.0], [100.0, 300.0]])
    # 4 tokens at a mean of 1 and 2, 100 tokens at a mean of 1 and 3
    assert imatrix_energy(sums, np.array([4.0, 100.0])) == pytest.approx(7.0)


def test_experts_without_tokens_add_nothing():
    assert imatrix_energy(np.array([[4.0], [0.0]]), np.array([4.0, 0.0])) == 1.0


def two_layers(**benefit: float) -> dict[str, float]:
    """Benefits of two layers: gate0, up0, down0, gate1, up1, down1; 1 where none is given."""
    return {name(i, kind): benefit.get(f"{kind}{i}", 1.0) for i in range(2) for kind in ("gate", "up", "down")}


def test_most_benefit_per_byte_first_and_layers_break_ties():
    benefit = two_layers(down0=3.0, down1=10.0, gate0=8.0, up0=8.0)
    gain = dict.fromkeys(benefit, 10) | {name(1, "down"): 11}
    order, tie = order_groups(benefit, gain, range(2), tie_gate_up=False)
    assert order[:4] == [name(1, "down"), name(0, "gate"), name(0, "up"), name(0, "down")]
    assert order[4:] == [name(1, "gate"), name(1, "up")]
    assert tie is None


def test_gate_and_up_are_tied_per_layer():
    benefit = two_layers(gate1=2.0)
    order, tie = order_groups(benefit, dict.fromkeys(benefit, 1), range(2), tie_gate_up=True)
    assert order == [
        *(name(1, kind) for kind in ("gate", "up")),
        *(name(0, k) for k in ("gate", "up", "down")),
        name(1, "down"),
    ]
    assert tie == [0, 0, 1, 1, 2, 3]


def test_groups_without_gain_go_last():
    benefit = two_layers(down0=9.0)
    order, _ = order_groups(benefit, dict.fromkeys(benefit, 5) | {name(0, "down"): 0}, range(2), tie_gate_up=False)
    assert order[-1] == name(0, "down")


def test_the_number_of_layers_is_checked():
    with pytest.raises(UserError, match=r"layers 0 to 2, which does not fit blk\.2\.ffn_down_exps\.weight"):
        order_groups(two_layers(), dict.fromkeys(two_layers(), 1), range(3), tie_gate_up=False)


# scores from files


def write_experts(path, kind: int, data: bytes, n_experts: int = 3) -> Gguf:
    return Gguf.read(gguf_files.write(path, [], [Raw(name(0, "down"), (256, 2, n_experts), kind, data)]))


def test_a_tensor_is_read_expert_by_expert(tmp_path):
    random = np.random.default_rng(1)
    blocks = random.integers(0, 256, (6, 102), np.uint8)
    blocks[:, 100:] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    model = write_experts(tmp_path / "low.gguf", IQ3_A770, blocks.tobytes())
    found = list(decoded(model.tensors[0]))
    assert [values.shape for values in found] == [(2, 256)] * 3
    assert np.array_equal(np.concatenate(found), decode(blocks))

    values = random.standard_normal((6, 256)).astype(np.float32)
    stock = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    model = write_experts(tmp_path / "high.gguf", int(gguf.GGMLQuantizationType.Q8_0), stock.tobytes())
    assert np.abs(np.concatenate(list(decoded(model.tensors[0]))) - values).max() < 0.02


def test_errors_count_by_the_tokens_of_each_expert(tmp_path):
    bits = np.full((6, 256), 0x3F80, "<u2")  # 1 in BF16
    reference = write_experts(tmp_path / "a.gguf", int(gguf.GGMLQuantizationType.BF16), bits.tobytes()).tensors[0]
    other = np.ones((6, 256), np.float32)
    other[0, 0] = 3.0  # expert 0, row 0
    other[5, 1] = 2.0  # expert 2, row 1
    variant = write_experts(tmp_path / "b.gguf", int(gguf.GGMLQuantizationType.F32), other.tobytes()).tensors[0]
    sums = np.zeros((3, 256))
    sums[0, 0], sums[2, 1] = 10.0, 100.0
    found = weighted_errors(reference, [variant, reference], {name(0, "down"): (sums, np.array([1.0, 0.0, 9.0]))})
    assert found == [pytest.approx((4 * 10 + 1 * 100) / 10), 0.0]


def test_rules_of_thumb(tmp_path):
    names = list(two_layers())
    low, high = (
        Gguf.read(gguf_files.write(tmp_path / f"{kind}.gguf", [], [Raw(one, (256, 2, 3), kind) for one in names]))
        for kind in (IQ3_A770, Q4_K)
    )
    layers = by_layer(low, high, {}, low)
    assert min(layers[name(0, kind)] for kind in ("gate", "up", "down")) > max(
        layers[name(1, kind)] for kind in ("gate", "up", "down")
    )
    assert at_random(low, high, {}, low) == at_random(low, high, {}, low)
    with pytest.raises(UserError, match="no entry for"):
        imatrix_energies(low, high, {}, low)


# mixes


@given(st.sets(st.integers(0, 200), min_size=1))
def test_ranks_are_read_back(ranks):
    assert parse_ranks(format_ranks(ranks), 201) == sorted(ranks)


def test_a_mix_too_long_to_say_is_a_file_of_its_own(tmp_path):
    names = [gguf_files.expert(layer, "gate") for layer in range(100)]
    tensors = [Raw(one, (256, 1, 1), IQ3_A770) for one in names]
    tensors += [Raw(f"{one}.v1", (256, 1, 1), Q4_K) for one in names]
    path = gguf_files.write(tmp_path / "twin.gguf", gguf_files.twin_keys(names), tensors)
    twin = Twin.read(path)
    with mix(twin, [], tmp_path / "plain.gguf") as (model, flags):
        assert (model, flags[-1]) == (path, "general.tensor_variant.default=int:0")
    with mix(twin, names[3:9], tmp_path / "plain.gguf") as (model, flags):
        assert (model, flags[-1]) == (path, "general.tensor_variant.promote=str:3-8")
    assert len(format_ranks(range(0, 100, 2))) > MAX_OVERRIDE
    with mix(twin, names[::2], tmp_path / "plain.gguf") as (model, flags):
        kinds = {tensor.name: tensor.type for tensor in Gguf.read(model).tensors}
        assert flags == []
        assert {one for one, kind in kinds.items() if kind == Q4_K} == set(names[::2])
    assert not model.exists()


# an order that is good at every budget


def exact(benefits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The most that any selection gets at rooms of 0, 1, 2, ... units."""
    best = np.zeros(sizes.sum() + 1)
    for benefit, size in zip(benefits, sizes, strict=True):
        best[size:] = np.maximum(best[size:], best[:-size] + benefit)
    return best


def by_score(benefits: np.ndarray, sizes: np.ndarray) -> list[int]:
    return list(np.argsort(-benefits / sizes, kind="stable"))


def test_a_pair_goes_before_a_single_where_both_do_not_fit():
    benefits, sizes = np.array([5.0, 8.0, 1.0]), np.array([1, 2, 1])
    assert by_score(benefits, sizes) == [0, 1, 2]
    order = improve([0, 1, 2], benefits, sizes)
    assert order == [1, 0, 2]
    assert list(walk([0, 1, 2], benefits, sizes, np.arange(5))) == [0, 5, 6, 13, 14]
    assert list(walk(order, benefits, sizes, np.arange(5))) == [0, 5, 8, 13, 14]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pairs_and_singles_are_as_good_as_any_selection(seed):
    """Of layers with tied gate and up: at every budget, where the order by score loses up to 40 %."""
    benefits, sizes = np.random.default_rng(seed).lognormal(0, 1, 20), np.array([2, 1] * 10)
    order = improve(by_score(benefits, sizes), benefits, sizes)
    assert walk(order, benefits, sizes, np.arange(31)) == pytest.approx(exact(benefits, sizes), rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 9)), min_size=1, max_size=8))
def test_no_budget_loses_by_what_is_moved(items):
    benefits, sizes = (np.array(part) for part in zip(*items, strict=True))
    before = by_score(benefits, sizes)
    after = improve(before, benefits, sizes)
    assert sorted(after) == sorted(before)
    every = np.arange(sizes.sum() + 1)
    assert (walk(after, benefits, sizes, every) >= walk(before, benefits, sizes, every) - 1e-6).all()


# measured benefits


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8))
def test_additive_benefits_are_found_again(benefits):
    together = {str(i): [f"g{i}"] for i in range(len(benefits))}
    everything = [f"g{i}" for i in range(len(benefits))]

    def row(promoted: list[str]) -> dict:
        return {"promoted": promoted, "kld_mean": 10.0 - sum(benefits[int(one[1:])] for one in promoted)}

    rows = [row([]), row(everything), *(row([one]) for one in everything)]
    rows += [row([other for other in everything if other != one]) for one in everything]
    found, base, rms = fit_benefits(rows, together)
    assert base == pytest.approx(10.0, abs=1e-6)
    assert list(found.values()) == pytest.approx(benefits, abs=1e-6)
    assert rms < 1e-6


def test_a_benefit_is_never_negative():
    rows = [
        {"promoted": [], "kld_mean": 1.0},
        {"promoted": ["a"], "kld_mean": 1.2},
        {"promoted": ["b"], "kld_mean": 0.5},
    ]
    found, _, rms = fit_benefits(rows, {"a": ["a"], "b": ["b"]})
    assert found["a"] == 0.0
    assert found["b"] > 0.4
    assert rms > 0.0


def mixes() -> tuple[list[dict], dict[str, list[str]]]:
    """Two labels: nothing, each, all; each alone is also all but the other."""
    return [{"promoted": one} for one in ([], ["a"], ["b"], ["a", "b"])], {"a": ["a"], "b": ["b"]}


def test_sums_of_single_benefits():
    rows, together = mixes()
    kld = np.array([0.05, 0.03, 0.04, 0.01])
    noise = np.random.default_rng(1).normal(0, 0.001, (2000, 4))
    found = sums(rows, together, kld, kld + noise)
    assert found["alone"]["share"] == pytest.approx(0.03 / 0.04)
    assert found["last"]["share"] == pytest.approx(0.05 / 0.04)
    assert found["difference"]["diff"] == pytest.approx(-0.5)
    assert found["difference"]["z"] == pytest.approx(found["difference"]["diff"] / found["difference"]["err"], abs=0.01)
    assert 0.02 < found["alone"]["err"] < 0.2


def test_errors_of_benefits():
    rows, together = mixes()
    draws = np.array([0.05, 0.03, 0.04, 0.02]) + np.random.default_rng(1).normal(0, 0.001, (4000, 4))
    # each benefit is the mean of two differences
    assert benefit_errors(rows, together, draws) == {name: pytest.approx(0.001, rel=0.05) for name in together}


# what is made of an order

LOW, HIGH = {"bytes": 100, "kld_mean": 0.05}, {"bytes": 160, "kld_mean": 0.02}


def order(benefit: list[float], gain: list[int], tie: list[int] | None = None) -> dict:
    names = [f"g{i}" for i in range(len(benefit))]
    groups = [{"name": n, "benefit": b, "gain_bytes": g} for n, b, g in zip(names, benefit, gain, strict=True)]
    return {"method": "measured", "promote_order": names, "promote_tie": tie, "groups": groups}


def test_the_predicted_curve_ends_where_the_phases_are():
    points = predict(order([3.0, 1.0, 2.0], [10, 20, 30], [0, 0, 1]), LOW, HIGH)
    assert [row["bytes"] for row in points] == [100, 130, 160]
    assert [row["promoted"] for row in points] == [0, 2, 3]
    assert [row["kld_predicted"] for row in points] == [0.05, pytest.approx(0.03), pytest.approx(0.02)]


@example([(0.0, 0), (2.2250738585e-313, 0)])
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 50)), min_size=1, max_size=10))
def test_the_predicted_loss_never_rises_with_the_bytes(groups):
    benefit, gain = map(list, zip(*groups, strict=True))
    points = predict(order(benefit, gain), LOW, HIGH)
    for before, after in itertools.pairwise(points):
        assert after["bytes"] >= before["bytes"]
        assert after["kld_predicted"] <= before["kld_predicted"]


@settings(max_examples=50, deadline=None)
@example([(2.2250738585e-313, 1)], 0)
@example([(1.0, 1), (1.0, 2), (1.0, 26), (0.5, 2), (0.5, 24), (1e-06, 2)], 28)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(1, 50)), min_size=1, max_size=8), st.integers(0, 200))
def test_the_optimum_is_that_of_trying_everything(groups, room):
    benefit, gain = map(list, zip(*groups, strict=True))
    best = max(
        sum(benefit[i] for i in chosen)
        for n in range(len(groups) + 1)
        for chosen in itertools.combinations(range(len(groups)), n)
        if sum(gain[i] for i in chosen) <= room
    )
    assert best_benefit(order(benefit, gain), room) == pytest.approx(best, abs=1e-8 * sum(benefit))


def test_distance_to_the_optimum():
    # per byte the first is best, but the other two fill the budget
    rows = [{"percent": 50, "budget_bytes": 120, "promoted": ["g0"]}]
    (found,) = distance(order([6.0, 5.0, 5.0], [11, 10, 10]), rows, {"bytes": 100})
    assert found == {"percent": 50, "selected": 37.5, "optimum": 62.5, "gap": 25.0}


def test_area_is_the_mean_over_all_budgets():
    assert area(np.array([0.05, 0.02, 0.02]), [100, 130, 160]) == pytest.approx((0.035 + 0.02) / 2)


def test_orders_are_compared_over_the_same_text():
    assert list(shares(np.array([5.0, 4.0, 3.0, 1.0]))) == [25, 50]
    rows = [
        [{"bytes": n, "percent": n - 100, "kld_mean": 0, "kld_mean_err": 0, "top1": 90} for n in (100, 150, 200)]
    ] * 2
    klds = np.array([[0.04, 0.03, 0.02], [0.04, 0.032, 0.02]])
    # texts differ by much, orders on one text by little
    level = np.random.default_rng(1).normal(1, 0.2, 500)[:, None, None]
    first, second = measured_orders(["best", "other"], rows, klds, level * klds, "best")
    assert first["difference"] is None
    assert first["area_err"] == pytest.approx(0.2 * first["area"], rel=0.1)
    apart = second["difference"]
    assert apart["to"] == "best"
    assert apart["area"]["diff"] == pytest.approx(0.001)
    assert apart["area"]["err"] == pytest.approx(0.0002, rel=0.1)
    (row,) = first["rows"]
    # the share is the same on each of them
    assert (row["closed"], row["closed_err"], row["added"]) == (50, 0, 50)


def test_units_cover_every_group_once():
    for tie in (False, True):
        names = [one for members in units(range(5), tie).values() for one in members]
        assert len(names) == len(set(names)) == 15
