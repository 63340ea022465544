"""The configuration: both shipped files load, mistakes are refused in one clear line each."""

import copy
from pathlib import Path

import pytest
import yaml

from phase_twin.config import load, twin_hash
from phase_twin.errors import UserError
from phase_twin.recipes import Recipe


@pytest.fixture
def release(root: Path) -> dict:
    return yaml.safe_load((root / "config/config.yaml").read_text())


def merged(base: dict, changes: dict) -> dict:
    """Snakemake's merge of --configfile: mappings are merged, all else replaced."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


def test_release_config_loads(release):
    config = load(release)
    assert config.model.name == "nex-n2-mini"
    assert {types["type"] for types in config.variants[0].experts.values()} == {"IQ3_A770"}
    assert {target.name for target in config.prune_targets} >= {"16gib"}


def test_nothing_to_compare_with_is_no_mistake(release):
    assert load(merged(release, {"bench": {"compare": []}})).bench.compare_to == release["bench"]["compare_to"]


SMALL, LARGE, REFINED = (
    {"gate": kind, "up": kind, "down": kind, "rest": "Q6_K"} for kind in ("IQ3_A770", "Q4_K", "IQ4_A770")
)


def test_a_twin_is_nested_where_variant_1_refines_variant_0(release):
    nested = load(merged(release, {"variants": [SMALL, REFINED]}))
    assert [*nested.kinds] == ["nested"]
    assert load(merged(release, {"variants": "nested"})) == nested
    assert load(merged(release, {"variants": "siblings"})) == load(merged(release, {"variants": [SMALL, LARGE]}))
    assert nested.variants[1].expert_bits(40) == 4.4375


def test_the_kind_is_open_where_variant_1_is_given_twice(release):
    words = {word: load(merged(release, {"variants": word})) for word in ("siblings", "nested", "auto")}
    assert words["auto"] == load(merged(release, {"variants": [SMALL, LARGE, REFINED]}))
    assert words["auto"].kinds == words["siblings"].kinds | words["nested"].kinds
    # bytes are those of a twin whose kind was given
    for kind in ("siblings", "nested"):
        assert twin_hash(words["auto"], kind) == twin_hash(words[kind], kind)
    assert twin_hash(words["auto"], "siblings") != twin_hash(words["auto"], "nested")


@pytest.mark.parametrize(
    ("types", "needs"),
    [
        ({"down": "IQ4_A770"}, True),
        ({"down": "Q4_K"}, True),
        ({"down": {"type": "IQ3_S", "raised": "IQ4_XS", "top": 1}}, True),
        ({"down": "Q4_K", "feedback": False}, False),
        ({"down": "Q4_0"}, False),
    ],
)
def test_which_recipes_are_encoded_with_error_feedback(types, needs):
    recipe = Recipe.model_validate({"gate": "IQ3_S", "up": "IQ3_S", "rest": "Q6_K"} | types)
    assert recipe.needs_covariance == needs


def test_nano_states_only_what_differs(root, release):
    nano = yaml.safe_load((root / "config/nano.yaml").read_text())
    config = load(merged(release, nano))
    assert config.model.name == "nex-n2-nano"
    assert config.imatrix.corpus.startswith("local:")
    assert config.variants == load(release).variants


@pytest.mark.parametrize(
    ("settings", "ranges"),
    [
        ({"parts": 1}, [(0, 100)]),
        ({"parts": 3}, [(0, 32), (32, 32), (64, 36)]),
        ({"parts": 2, "chunks": 14}, [(0, 4), (4, 10)]),
        ({"parts": 2, "chunks": 3, "n_ctx": 4096}, [(0, 1), (1, 2)]),
    ],
)
def test_parts_are_whole_batches(release, settings, ranges):
    assert load(merged(release, {"bench": {"quality": settings}})).bench.quality.ranges() == ranges


def raised(which):
    """A recipe that raises some layers of one class."""
    down = {"type": "IQ3_A770", "raised": "Q4_K", **which}
    return {"gate": "IQ3_A770", "up": "IQ3_A770", "down": down, "rest": "Q6_K"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bench": {"quality": {"chunks": "many"}}}, ["bench.quality.chunks", "'many'", "integer"]),
        ({"bench": {"quality": {"reference": "Q8_0"}}}, ["bench.quality.reference", "'Q8_0'", "'BF16' or 'Q6_K'"]),
        ({"bench": {"quality": {"parts": 26}}}, ["bench.quality", "26 parts need `chunks`, 4 for each at least"]),
        ({"engine": {"backend": "hip"}}, ["engine.backend", "'hip'", "'cpu', 'sycl', 'cuda' or 'vulkan'"]),
        ({"engine": {"sycl_f16": "half"}}, ["engine.sycl_f16", "'half'"]),
        ({"bench": {"arc": {"twin": "twin.gguf"}}}, ["bench.arc.twin", "'twin.gguf'"]),
        ({"bench": {"speed": {"depths": []}}}, ["bench.speed.depths"]),
        ({"bench": {"compare": ["q9"]}}, ["bench.compare: 'q9' is not among study.recipes; known:", "q3_k"]),
        ({"bench": {"compare": ["q3_k", "q3_k"]}}, ["bench.compare", "'q3_k' is given twice"]),
        ({"bench": {"compare": [], "compare_to": "q9"}}, ["bench.compare_to: 'q9' is not among bench.compare"]),
        ({"bench": {"compare_to": "q4_k"}}, ["bench.compare_to: 'q4_k' is not among bench.compare; add it there"]),
        ({"bench": {"quality": {"documents": "("}}}, ["bench.quality.documents", "is no regular expression"]),
        ({"prune_targets": [{"name": "iq3_xxs", "budget_mb": 3}]}, ["bench.compare", "'iq3_xxs' is given twice"]),
        ({"modle": {}}, ["modle", "unknown key"]),
        ({"rank": {"tie": True}}, ["rank.tie", "unknown key"]),
        ({"model": {"name": "../up"}}, ["model.name", "'../up'"]),
        ({"model": {"title": "a b; rm"}}, ["model.title"]),
        ({"prune_targets": [{"name": "x", "vram_gib": 16, "budget_mb": 3}]}, ["prune_targets.0", "one of the two"]),
        ({"prune_targets": [{"name": "x"}]}, ["prune_targets.0", "one of the two"]),
        ({"prune_targets": [{"name": "x", "budget_mb": 3}] * 2}, ["prune_targets", "given twice"]),
        (
            {"variants": [{"gate": "IQ9", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"}] * 2},
            ["variants.0.gate.type", "IQ9"],
        ),
        ({"variants": [{"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"}] * 2}, ["nothing to promote"]),
        (
            {"variants": [{"gate": "IQ3_A770", "up": "Q3_K", "down": "IQ3_A770", "rest": "Q6_K"}, REFINED]},
            ["variants: up is Q3_K and IQ4_A770", "refines IQ3_A770"],
        ),
        (
            {
                "variants": [
                    {"gate": "IQ3_A770", "up": "Q3_K", "down": "IQ3_A770", "rest": "Q6_K"},
                    {**REFINED, "up": "Q4_K"},
                ]
            },
            ["variants: up is Q3_K and Q4_K", "nothing else twice"],
        ),
        ({"variants": "cousins"}, ["variants = 'cousins'", "siblings, nested, auto"]),
        ({"variants": [SMALL]}, ["variants", "at least 2 items"]),
        ({"variants": [SMALL, REFINED, LARGE]}, ["of three recipes the second is a sibling", "refines with IQ4_A770"]),
        ({"variants": [SMALL, LARGE, {**LARGE, "down": "Q5_K"}]}, ["of three recipes the second is a sibling"]),
        ({"variants": [{**SMALL, "up": "Q3_K"}, LARGE, REFINED]}, ["variants: up is Q3_K and IQ4_A770"]),
        ({"nested_margin": -1.5}, ["nested_margin = -1.5"]),
        ({"variants": [REFINED, {"gate": "Q6_K", "up": "Q6_K", "down": "Q6_K", "rest": "Q6_K"}]}, ["variant 0 is the"]),
        (
            {
                "variants": [
                    {"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"},
                    {"gate": "IQ3_A770", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"},
                ]
            },
            ["variants: experts have 4.50 bits in variant 0 and 4.06 in variant 1", "the small variant comes first"],
        ),
        (
            {"variants": [raised({"top": 41}), {"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"}]},
            ["variants.0.down raises 41 layers, but 40 have experts"],
        ),
        (
            {"bench": {"compare": ["x"], "compare_to": "x"}, "study": {"recipes": {"x": raised({"layers": [0, 40]})}}},
            ["study.recipes.x.down raises layer 40, but experts are in layers 0 to 39"],
        ),
        ({"model": {"title": "x" * 101}}, ["model.title", "at most 100 characters"]),
        ({"model": {"name": "x" * 101}}, ["model.name", "at most 100 characters"]),
        ({"model": {"bf16_gib": float("inf")}}, ["model.bf16_gib = inf"]),
        ({"prune_targets": [{"name": "x", "vram_gib": float("inf")}]}, ["prune_targets.0.vram_gib = inf"]),
        ({"prune_targets": [{"name": "twin", "budget_mb": 3}]}, ["the name 'twin' is taken"]),
        ({"prune_targets": [{"name": "variant-1", "budget_mb": 3}]}, ["the name 'variant-1' is taken"]),
        (
            {"bench": {"compare": ["variant-0"]}, "study": {"recipes": {"variant-0": raised({"top": 1})}}},
            ["the name 'variant-0' is taken"],
        ),
        ({"prune_targets": [{"name": "x", "vram_gib": 0.5}]}, ["reserve_gib 0.5 leaves nothing of vram_gib 0.5"]),
        ({"release": {"repo": "someone/a--twin"}}, ["release.repo", "'someone/a--twin'", "Cannot have -- or .."]),
        ({"study": {"codebooks": {"x": [-127, 0, 1]}}}, ["study.codebooks.x", "8 items"]),
        ({"study": {"codebooks": {"x": [-127, 0, 1, 2, 3, 4, 6, 5]}}}, ["study.codebooks.x", "ascend"]),
        ({"study": {"codebooks": {"x": [-126, 0, 1, 2, 3, 4, 5, 6]}}}, ["study.codebooks.x", "must be 127"]),
        ({"study": {"codebooks": {"lloyd": [-127, 0, 1, 2, 3, 4, 5, 6]}}}, ["study", "'lloyd' is taken"]),
    ],
)
def test_mistakes_are_refused(release, changes, words):
    with pytest.raises(UserError) as caught:
        load(merged(release, changes))
    for word in words:
        assert word in str(caught.value)


def test_rest_must_be_equal(release):
    with pytest.raises(UserError, match="rest is Q6_K in variant 0 and Q8_0 in variant 1"):
        load(merged(release, {"variants": [SMALL, {**LARGE, "rest": "Q8_0"}]}))


def test_missing_key_is_named(release):
    del release["rank"]["method"]
    with pytest.raises(UserError, match=r"rank\.method: missing"):
        load(release)


def test_twin_hash_ignores_what_does_not_decide_the_twin(release):
    before = twin_hash(load(release), "siblings")
    assert twin_hash(load(merged(release, {"bench": {"quality": {"chunks": 20}}})), "siblings") == before
    assert twin_hash(load(merged(release, {"imatrix": {"n_ctx": 256}})), "siblings") != before
