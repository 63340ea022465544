"""The README's table of cards, and the shapes it is computed from."""

from types import SimpleNamespace

import pytest
import yaml

from gguf_files import nex_n2_mini
from markdown_table import markdown
from phase_twin import mini_cards
from phase_twin.config import load
from prune_dual import GIB, MIB, Twin
from shape_model import TYPES


@pytest.fixture(scope="module")
def table() -> SimpleNamespace:
    head, rows = mini_cards.cards_table()
    return SimpleNamespace(text=markdown(head, rows), cells={row[0]: row[1:] for row in rows})


def test_the_readme_has_it(root, table):
    text = (root / "README.md").read_text()
    between = text.split("<!-- cards -->")[1].split("<!-- end cards -->")[0]
    assert between.strip() == table.text, "README.md is out of date: run update_tables.py"


def test_known_sizes(table):
    # 120 x 2^28 weights of 3.1875 and 4.5 bits
    twin = mini_cards.twin_of_shapes()
    small, large = (sum(tensor.nbytes for tensor in twin.phase(number)) for number in (0, 1))
    assert large - small == 120 * 42 * MIB
    assert small / GIB == pytest.approx(13.89, abs=0.005)
    assert table.cells["24 GiB"] == ["18.81 GiB, 120 of 120"] * 3
    assert table.cells["12 GiB"] == ["does not fit"] * 3
    # docs/memory.md: 14.72 GiB are left for weights
    assert table.cells["16 GiB"][1] == "14.71 GiB, 20 of 120"


def test_the_shapes_are_those_of_the_tests(tmp_path):
    ours, theirs = (
        {tensor.name: (tensor.shape, tensor.type) for tensor in twin.gguf.tensors}
        for twin in (
            mini_cards.twin_of_shapes(),
            Twin.read(nex_n2_mini(tmp_path / "twin.gguf", twin=True)),
        )
    )
    assert ours == theirs


def test_the_types_are_those_of_the_release(root):
    config = load(yaml.safe_load((root / "config/config.yaml").read_text()))
    for recipe, kind in zip(config.variants, ("IQ3_A770", "Q4_K"), strict=True):
        experts = (recipe.gate, recipe.up, recipe.down)
        assert {(one.type, one.raised) for one in experts} == {(kind, None)}
        assert (recipe.rest, recipe.rest_classes) == ("Q6_K", {})
        assert TYPES[kind] in mini_cards.VARIANTS


def test_the_smallest_card_does_and_a_smaller_does_not():
    twin = mini_cards.twin_of_shapes()
    size = mini_cards.smallest(twin, 8192, 0)
    assert mini_cards.fit(twin, [round(size * 10) * GIB // 10], 8192)
    assert not mini_cards.fit(twin, [(round(size * 10) - 1) * GIB // 10], 8192)
