"""The selection rule: known answers, and what must hold for every twin and budget."""

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gguf_files
from gguf_files import BAD_OF_EITHER_KIND, BAD_RANKS, Q3_K, Q4_K, Raw, expert, published_twin, twin_keys
from phase_twin.experts import expert_name
from prune_dual import MIB, Gguf, GgufError, Span, Tensor, Twin, parse_ranks, select, split_variant
from rank_groups import order_groups


def twin_of(
    sizes: dict[str, tuple[int, int]], order: list[str], tie: list[int] | None = None, shared: int = 0, default: int = 0
) -> Twin:
    """A twin of groups with the given bytes of variant 0 and 1, without a file."""
    path = Path("made.gguf")
    variants = [
        Tensor(name + suffix, (1,), 0, Span(path, 0, nbytes))
        for name, pair in sizes.items()
        for suffix, nbytes in zip(("", ".v1"), pair, strict=True)
    ]
    tensors = [Tensor("shared", (1,), 0, Span(path, 0, shared)), *variants]
    by_name = {tensor.name: tensor for tensor in tensors}
    groups = {name: {0: by_name[name], 1: by_name[f"{name}.v1"]} for name in sizes}
    return Twin(Gguf(path, 3, 32, {}, tensors, 0, False), groups, 2, default, 0, order, tie)


ABC = {"a": (10, 14), "b": (10, 13), "c": (10, 11)}


@pytest.mark.parametrize(
    ("budget", "promoted"),
    [(130, []), (131, ["c"]), (133, ["b"]), (134, ["a"]), (135, ["a", "c"]), (137, ["a", "b"]), (138, ["a", "b", "c"])],
)
def test_walks_the_order_and_skips_what_does_not_fit(budget, promoted):
    selection = select(twin_of(ABC, ["a", "b", "c"], shared=100), budget_bytes=budget)
    assert selection.promoted == promoted
    assert selection.variant0_bytes == 130
    assert selection.selected_bytes == 130 + sum(ABC[name][1] - ABC[name][0] for name in promoted)


def test_a_tie_is_promoted_together_or_not_at_all():
    twin = twin_of(ABC, ["a", "c", "b"], [5, 0, 5])
    assert select(twin, budget_bytes=36).promoted == ["c"]
    assert select(twin, budget_bytes=37).promoted == ["a", "b"]
    assert select(twin, budget_bytes=38).promoted == ["a", "b", "c"]


def test_a_tie_may_gain_though_a_member_shrinks():
    twin = twin_of({"a": (10, 8), "b": (10, 13)}, ["a", "b"], [1, 1])
    assert select(twin, budget_bytes=20).promoted == []
    assert select(twin, budget_bytes=21).promoted == ["a", "b"]


def test_nothing_to_gain_is_skipped():
    assert select(twin_of({"a": (10, 10), "b": (10, 9)}, ["a", "b"]), budget_bytes=100).promoted == []


def test_unknown_names_are_skipped_with_a_warning(caplog):
    twin = twin_of(ABC, ["x", "b", "shared", "x"], [1, 1, 2, 1])
    assert select(twin, budget_bytes=100).promoted == ["b"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "'x'" in caplog.text
    assert "'shared'" in caplog.text


def test_a_name_given_twice_counts_once():
    assert select(twin_of(ABC, ["c", "c", "a"], [1, 1, 1]), budget_bytes=35).promoted == ["c", "a"]
    assert select(twin_of(ABC, ["c", "c", "c"]), budget_bytes=32).selected_bytes == 31


def test_a_tie_is_tried_again_when_part_of_it_was_promoted_elsewhere():
    # tie 1 (a, b) does not fit; tie 2 promotes a and makes room with c; then the rest of tie 1 fits
    twin = twin_of({"a": (10, 14), "b": (10, 13), "c": (10, 7)}, ["a", "a", "c", "b"], [1, 2, 2, 1])
    assert select(twin, budget_bytes=34).promoted == ["a", "c", "b"]


def test_budget_wins_over_default_and_zero_is_none():
    twin = twin_of(ABC, ["a", "b", "c"], default=1)
    assert select(twin, budget_bytes=31).promoted == ["c"]
    assert select(twin).promoted == ["a", "b", "c"]
    assert select(twin, variant=0).promoted == []
    assert select(twin, variant=1).selected_bytes == 38


def test_groups_outside_the_order_are_never_promoted_by_a_budget():
    assert select(twin_of(ABC, ["b"]), budget_bytes=1000).promoted == ["b"]


def test_too_small_a_budget_names_the_smallest_feasible_one():
    twin = twin_of({"a": (5 * MIB + 1, 9 * MIB)}, ["a"])
    with pytest.raises(GgufError, match=r"smallest feasible budget is 6 MiB"):
        select(twin, budget_bytes=5 * MIB)
    assert select(twin, budget_bytes=6 * MIB).promoted == []


def test_variant_beyond_the_twin_is_refused():
    with pytest.raises(GgufError, match="variant 2"):
        select(twin_of(ABC, []), variant=2)


def test_promote_takes_ranks_and_splits_ties():
    twin = twin_of(ABC, ["c", "x", "a", "b"], [1, 1, 2, 1])
    assert select(twin, promote="2,0-1", variant=1, budget_bytes=1).promoted == ["c", "a"]
    assert select(twin, promote="").promoted == []


@pytest.mark.parametrize(
    ("text", "ranks"),
    [("", []), ("0", [0]), ("3,1", [1, 3]), ("0-2", [0, 1, 2]), ("1-1,1", [1]), ("0-1,3", [0, 1, 3]), ("01", [1])],
)
def test_ranks(text, ranks):
    assert parse_ranks(text, 4) == ranks


@pytest.mark.parametrize("text", [*BAD_RANKS, "9" * 5000])
def test_bad_ranks_are_refused(text):
    with pytest.raises(GgufError, match="promote"):
        parse_ranks(text, 4)


def test_variant_names():
    assert split_variant("a.v1") == ("a", 1)
    assert split_variant("a.v12") == ("a", 12)
    assert split_variant("a.vx") == ("a.vx", 0)
    assert split_variant("a.weight") == ("a.weight", 0)


def test_the_published_twin_promotes_one_down_at_15400_mib(tmp_path):
    twin = Twin.read(published_twin(tmp_path / "twin.gguf"))
    assert len(twin.groups) == 120
    selection = select(twin, budget_bytes=15400 * MIB)
    assert selection.variant0_bytes == 15 * 2**30
    assert selection.promoted == [expert(0, "down")]
    assert f"{selection.selected_bytes / 2**30:.2f}" == "15.03"


@pytest.mark.parametrize("case", BAD_OF_EITHER_KIND)
def test_bad_twin_is_refused_naming_file_and_tensor(tmp_path, case):
    build, words = BAD_OF_EITHER_KIND[case]
    path = build(tmp_path / "bad.gguf")
    with pytest.raises(GgufError) as error:
        Twin.read(path)
    for word in (str(path), *words):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plain_model_is_no_twin(tmp_path):
    path = gguf_files.write(tmp_path / "plain.gguf", gguf_files.PLAIN, [Raw("a", (4,))])
    with pytest.raises(GgufError, match="not a phase twin"):
        Twin.read(path)


@pytest.mark.parametrize("first", [True, False])
def test_a_part_of_a_split_file_is_refused(tmp_path, first):
    keys = [*(twin_keys(["a"]) if first else ()), ("split.count", "u16", 2)]
    path = gguf_files.write(tmp_path / "part.gguf", keys, [Raw("a", (256,), Q3_K), Raw("a.v1", (256,), Q4_K)])
    with pytest.raises(GgufError, match="is a part of a split file; merge it first"):
        Twin.read(path)


# for every twin and budget

sizes_of = st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1)


@st.composite
def twins(draw, clean=False):
    """A twin; `clean`: its order names every group once and no other."""
    sizes = draw(sizes_of)
    if clean:
        order = draw(st.permutations(sorted(sizes)))
    else:
        order = draw(st.lists(st.sampled_from("abcdefghxy"), max_size=14))
    tie = draw(st.none() | st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order)))
    return twin_of(sizes, list(order), tie, draw(st.integers(0, 30)))


def feasible(twin: Twin, above: int):
    return select(twin, budget_bytes=sum(tensor.nbytes for tensor in twin.phase(0)) + above)


@settings(deadline=None)  # the machine may be busy
@given(twins(), st.integers(0, 200))
def test_budget_is_never_exceeded_and_sizes_add_up(twin, above):
    selection = feasible(twin, above)
    assert selection.selected_bytes <= selection.budget_bytes
    assert selection.selected_bytes == sum(tensor.nbytes for tensor in twin.take(selection.variants))
    assert [name for name, number in selection.variants.items() if number] == sorted(
        selection.promoted, key=list(twin.groups).index
    )
    assert len(set(selection.promoted)) == len(selection.promoted)
    assert set(selection.promoted) <= set(twin.promote_order)


@settings(deadline=None)
@given(twins(clean=True), st.integers(0, 200))
def test_ties_are_never_split_and_nothing_that_fits_is_left(twin, above):
    selection = feasible(twin, above)
    ties = twin.promote_tie or range(len(twin.promote_order))
    members: dict[int, list[str]] = {}
    for name, tie in zip(twin.promote_order, ties, strict=True):
        members.setdefault(tie, []).append(name)
    for names in members.values():
        taken = [name in selection.promoted for name in names]
        delta = sum(twin.delta(name, 1) for name in names)
        assert len(set(taken)) == 1
        if taken[0]:
            assert delta > 0
        else:
            assert delta <= 0 or selection.selected_bytes + delta > selection.budget_bytes


@settings(deadline=None)
@given(twins())
def test_without_room_nothing_is_promoted(twin):
    assert feasible(twin, 0).selected_bytes == feasible(twin, 0).variant0_bytes


@settings(deadline=None)
@given(twins(), st.integers(0, 200))
def test_what_was_selected_is_selected_again_at_its_own_size(twin, above):
    first = feasible(twin, above)
    again = select(twin, budget_bytes=first.selected_bytes)
    assert again.promoted == first.promoted


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 40)), min_size=9, max_size=9),
    st.booleans(),
    st.integers(0, 300),
    st.integers(0, 60),
)
def test_predicted_loss_never_rises_with_the_budget(groups, tie_gate_up, above, more):
    names = [expert_name(layer, kind) for layer in range(3) for kind in ("gate", "up", "down")]
    benefit = {name: group[0] for name, group in zip(names, groups, strict=True)}
    gain = {name: group[1] for name, group in zip(names, groups, strict=True)}
    order, tie = order_groups(benefit, gain, range(3), tie_gate_up)
    twin = twin_of({name: (10, 10 + gain[name]) for name in names}, order, tie)
    less, greater = (sum(benefit[name] for name in feasible(twin, room).promoted) for room in (above, above + more))
    assert greater >= less - 1e-9


@settings(deadline=None)
@given(twins(), st.integers(1, 30))
def test_less_than_variant_0_is_refused(twin, below):
    budget = sum(tensor.nbytes for tensor in twin.phase(0)) - below
    assume(budget > 0)
    with pytest.raises(GgufError, match="smallest feasible"):
        select(twin, budget_bytes=budget)
