"""Nested twins: a base and a plane per group, that a prune weaves into one tensor."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pack_twin
from gguf_files import (
    F32,
    IQ3_A770,
    IQ3_A770_R,
    IQ3_KEYS,
    IQ4_A770,
    IQ4_KEYS,
    PLAIN,
    Q4_K,
    Q6_K,
    TABLES,
    Raw,
    expert,
    filled,
    nested_keys,
    nested_twin,
    nex_n2_mini,
    refined_model,
    twin_keys,
    write,
)
from pack_twin import pack
from phase_twin import iq3_a770, iq4_a770
from phase_twin.errors import UserError
from phase_twin.files import write_digest
from prune_dual import Gguf, GgufError, Twin, prune, select
from prune_dual.cli import main
from prune_dual.container import weaving
from verify_twin import verify_bytes

GATES = [expert(layer, "gate") for layer in range(4)]
ORDER = [expert(0, "down"), expert(1, "gate"), expert(1, "up"), expert(0, "gate"), expert(0, "up")]


def woven(base: bytes, plane: bytes) -> bytes:
    """Blocks of IQ4_A770, one by one."""
    pairs = zip(range(0, len(base), 102), range(0, len(plane), 40), strict=True)
    return b"".join(base[a : a + 102] + plane[b : b + 40] for a, b in pairs)


def stored(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.read() for tensor in Gguf.read(path).tensors}


def contents(path: Path) -> list[tuple]:
    return [(t.name, t.shape, t.type, t.data.read()) for t in Gguf.read(path).tensors]


def pruned(path: Path, out: Path, **request) -> Gguf:
    twin = Twin.read(path)
    prune(twin, select(twin, **request), out, force=True)
    return Gguf.read(out)


@pytest.fixture
def twin(tmp_path):
    return nested_twin(tmp_path / "twin.gguf", shape=(512, 3, 5), extra=[("general.file_type", "u32", 770)])


def test_a_twin_of_siblings_may_be_of_version_2(tmp_path):
    keys = nested_keys(GATES[:1], instead={"kind": ("general.tensor_variant.kind", "str", "siblings")})
    tensors = [filled(GATES[0], (256, 4), Q4_K), filled(f"{GATES[0]}.v1", (256, 4), Q6_K)]
    view = Twin.read(write(tmp_path / "twin.gguf", keys, tensors))
    assert (view.kind, list(view.groups)) == ("siblings", GATES[:1])


def test_a_name_with_r1_is_an_ordinary_one_elsewhere(tmp_path):
    tensors = [filled(f"{GATES[0]}{end}", (256, 4), Q4_K) for end in ("", ".v1", ".r1")]
    view = Twin.read(write(tmp_path / "twin.gguf", twin_keys(GATES[:1]), tensors))
    assert [tensor.name for tensor in view.phase(1)] == [GATES[0], f"{GATES[0]}.r1"]


def test_variant_1_is_base_and_plane(twin, tmp_path):
    view = Twin.read(twin)
    assert (view.kind, view.count, list(view.groups)) == ("nested", 2, GATES)
    assert view.delta(GATES[0], 1) == 2 * 3 * 5 * 40
    held = stored(twin)
    model = pruned(twin, tmp_path / "out.gguf", promote="0,2")
    assert [(tensor.name, tensor.type) for tensor in model.tensors] == [
        ("token_embd.weight", Q6_K),
        *zip(GATES, (IQ4_A770, IQ3_A770, IQ4_A770, IQ3_A770), strict=True),
    ]
    for tensor in model.tensors:
        plane = held.get(f"{tensor.name}.r1")
        whole = woven(held[tensor.name], plane) if tensor.type == IQ4_A770 else held[tensor.name]
        assert tensor.data.read() == whole
    for key, kind, value in IQ4_KEYS:
        assert model.get(key, kind) == value
    assert model.get("phase_twin.promoted", "u32") == 2
    assert not any(key.startswith("general.tensor_variant.") for key in model.kv)


def test_keys_and_file_type_are_those_of_the_types_that_stay(twin, tmp_path):
    base = pruned(twin, tmp_path / "out.gguf", variant=0)
    assert {key for key in base.kv if key.startswith("iq3_a770")} == {key for key, _, _ in IQ3_KEYS}
    assert base.get("general.file_type", "u32") == 770
    assert {tensor.type for tensor in base.tensors[1:]} == {IQ3_A770}
    assert pruned(twin, tmp_path / "out.gguf", promote="0").get("general.file_type", "u32") == 770
    assert pruned(twin, tmp_path / "out.gguf", promote="0-2").get("general.file_type", "u32") == 772
    full = pruned(twin, tmp_path / "out.gguf", variant=1)
    assert full.get("general.file_type", "u32") == 772
    assert {tensor.type for tensor in full.tensors[1:]} == {IQ4_A770}


@pytest.mark.parametrize("step", [1, 300, 102 * 7])
def test_blocks_that_are_many_steps(twin, tmp_path, monkeypatch, step):
    expected = pruned(twin, tmp_path / "expected.gguf", variant=1)
    monkeypatch.setattr(weaving, "STEP", step)
    done = []
    view = Twin.read(twin)
    prune(view, select(view, variant=1), tmp_path / "out.gguf", progress=lambda *at: done.append(at))
    assert (tmp_path / "out.gguf").read_bytes() == expected.path.read_bytes()
    assert done == sorted(done)
    assert len(done) > 4


def test_the_command_line_writes_verifies_and_takes_up(twin, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    arguments = ["--dual", str(twin), "--out", str(out), "--variant", "1"]
    assert main([*arguments, "--verify"]) == 0
    assert "promoted 4 of 4" in capsys.readouterr().out
    assert main([*arguments, "--resume", "--verify"]) == 0
    data = bytearray(out.read_bytes())
    last = Gguf.read(out).tensors[-1].data
    for at in (0, 141):  # of the base, and of the plane
        damaged = data.copy()
        damaged[last.offset + at] ^= 1
        out.write_bytes(damaged)
        assert main([*arguments, "--resume", "--verify"]) == 1
        assert f"tensor {GATES[3]!r} does not have the bytes it has in" in capsys.readouterr().err


def test_cards_hold_base_and_plane_of_what_is_promoted(tmp_path, capsys):
    path = nex_n2_mini(tmp_path / "mini.gguf", nested=True)
    plane = 2048 * 512 * 256 // 256 * 40
    for gib, promoted in ((24, 120), (16, 33)):
        assert main(["--dual", str(path), "--vram-gib", str(gib), "--dry-run", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        (card,) = facts["account"]["cards"]
        assert len(facts["promoted"]) == promoted
        assert facts["selected_bytes"] == facts["variant0_bytes"] + promoted * plane
        assert card["weights"] == facts["selected_bytes"] - facts["account"]["host_weights"]
        assert card["free"] >= 0
        assert promoted == 120 or card["free"] < plane


def test_a_twin_that_becomes_shorter_while_it_is_read(twin, tmp_path):
    view = Twin.read(twin)
    plane = view.gguf.tensors[-1].data
    with open(twin, "r+b") as file:
        file.truncate(plane.offset + 50)
    with pytest.raises(GgufError, match="became shorter while it was read"):
        prune(view, select(view, variant=1), tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["twin.gguf"]


# for every twin


def blocks_of(rng: np.random.Generator, n_blocks: int, nbytes: int) -> np.ndarray:
    """Random blocks of IQ3_A770 or its plane; d is finite."""
    blocks = rng.integers(0, 256, (n_blocks, nbytes), np.uint8)
    if nbytes == 102:
        blocks[:, 101] &= 0xBB  # an exponent bit that the largest ones have
    return blocks


@st.composite
def nested_twins(draw):
    """Tensors of groups by name, each a base and a plane, and the order of promotion, with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    names = [expert(layer, kind) for layer in range(2) for kind in ("gate", "up", "down")]
    names = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    shapes = {name: (256 * draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))) for name in names}
    parts = {}
    for name, shape in shapes.items():
        n_blocks = np.prod(shape) // 256
        parts[name] = (shape, blocks_of(rng, n_blocks, 102), blocks_of(rng, n_blocks, 40))
    order = draw(st.permutations(names))[: draw(st.integers(0, len(names)))]
    tie = draw(st.none() | st.lists(st.integers(0, 2), min_size=len(order), max_size=len(order)))
    return parts, order, tie


@settings(deadline=None, max_examples=40)
@given(nested_twins())
def test_every_budget_gives_the_weights_of_the_twin(tmp_path_factory, made):
    parts, order, tie = made
    folder = tmp_path_factory.getbasetemp()
    tensors = [filled("token_embd.weight", (256, 2), Q6_K)]
    tensors += [Raw(name, shape, IQ3_A770, base.tobytes()) for name, (shape, base, _) in parts.items()]
    planes = [Raw(f"{name}.r1", shape, IQ3_A770_R, plane.tobytes()) for name, (shape, _, plane) in parts.items()]
    path = write(folder / "twin.gguf", nested_keys(order, tie) + IQ4_KEYS, tensors + planes)
    twin = Twin.read(path)
    for name, (_, _, plane) in parts.items():
        assert twin.delta(name, 1) == plane.nbytes
    low = sum(tensor.nbytes for tensor in tensors)
    bounds = {low}
    for name in order:
        bounds |= {bound + twin.delta(name, 1) - less for bound in bounds for less in (0, 1)}
    for budget in bounds:
        if budget < low:
            continue
        selection = select(twin, budget_bytes=budget)
        assert selection.selected_bytes <= budget
        prune(twin, selection, folder / "out.gguf", force=True)
        model = Gguf.read(folder / "out.gguf")
        assert sum(tensor.nbytes for tensor in model.tensors) == selection.selected_bytes
        assert [tensor.name for tensor in model.tensors] == [tensor.name for tensor in tensors]
        for tensor in model.tensors[1:]:
            _, base, plane = parts[tensor.name]
            data = np.frombuffer(tensor.data.read(), np.uint8)
            if tensor.name in selection.promoted:
                assert tensor.type == IQ4_A770
                assert np.array_equal(iq4_a770.decode(data.reshape(-1, 142)), iq4_a770.decode_planes(base, plane))
            else:
                assert tensor.type == IQ3_A770
                assert np.array_equal(iq3_a770.decode(data.reshape(-1, 102)), iq3_a770.decode(base))


# pack and verify


@pytest.fixture
def model(tmp_path):
    return refined_model(tmp_path / "model.gguf")


@pytest.fixture
def packed(tmp_path, model):
    assert pack([model], tmp_path / "packed.gguf", ORDER, [3, 0, 0, 1, 1], license="Apache-2.0", repo="a/b") == [
        tensor.name for tensor in Gguf.read(model).tensors if tensor.type == IQ4_A770
    ]
    return tmp_path / "packed.gguf"


def test_planes_stand_behind_the_rest_in_promotion_order(packed, model):
    names = [tensor.name for tensor in Gguf.read(packed).tensors]
    assert names == [tensor.name for tensor in Gguf.read(model).tensors] + [f"{name}.r1" for name in ORDER]


def test_groups_without_a_rank_have_the_last_planes(tmp_path, model, caplog):
    pack([model], tmp_path / "packed.gguf", ORDER[2:3], None)
    names = [tensor.name for tensor in Gguf.read(tmp_path / "packed.gguf").tensors][-5:]
    in_file = [expert(layer, kind) for layer in range(2) for kind in ("gate", "up", "down")][:5]
    assert names == [f"{name}.r1" for name in dict.fromkeys([ORDER[2], *in_file])]
    assert "promote_order lacks 4 groups" in caplog.text


def test_the_model_comes_out_of_the_twin_again(packed, model, tmp_path):
    full = pruned(packed, tmp_path / "out.gguf", variant=1)
    assert contents(tmp_path / "out.gguf") == contents(model)
    assert full.get("general.file_type", "u32") == 772


def test_keys_of_the_twin(packed):
    view = Twin.read(packed)
    assert (view.kind, view.count, view.default, view.promote_order) == ("nested", 2, 0, ORDER)
    assert view.promote_tie == [3, 0, 0, 1, 1]
    assert view.gguf.get("general.tensor_variant.version", "u32") == 2
    assert view.gguf.get("general.file_type", "u32") == 770
    assert view.gguf.get("iq3_a770_r.tables", "[i8]") == [level for table in TABLES for level in table]
    assert view.gguf.get("general.license", "str") == "Apache-2.0"


def test_verify_compares_with_the_model(packed, model):
    report = verify_bytes(packed, [model])
    held = Gguf.read(packed).tensors
    assert report["tensors"].keys() == {tensor.name for tensor in held}
    assert report["tensors"][f"{ORDER[0]}.r1"]["type"] == "IQ3_A770_R"
    assert report["groups"] == 5
    base, full = report["types"]
    assert base["down"] == {"IQ3_A770": 1, "Q6_K": 1}
    assert full["gate"] == {"IQ4_A770": 2}


@pytest.mark.parametrize("name", ["token_embd.weight", ORDER[0], f"{ORDER[0]}.r1"])
def test_verify_finds_one_changed_byte(packed, model, name):
    span = next(tensor.data for tensor in Gguf.read(packed).tensors if tensor.name == name)
    data = bytearray(packed.read_bytes())
    data[span.offset + span.nbytes - 1] ^= 1
    packed.write_bytes(data)
    with pytest.raises(UserError, match=f"tensor {name} does not have"):
        verify_bytes(packed, [model])


def test_verify_wants_the_one_file(packed, model):
    with pytest.raises(UserError, match="is made of 1 files, packed were 2"):
        verify_bytes(packed, [model, model])


def test_what_is_no_model_of_iq4_a770_is_refused(packed, tmp_path):
    plain = write(tmp_path / "plain.gguf", PLAIN, [filled("norm", (256,), F32)])
    with pytest.raises(UserError, match="no tensor is IQ4_A770"):
        pack([plain], tmp_path / "out.gguf", [], None)
    with pytest.raises(UserError, match=r"\.r1 is a variant already"):
        pack([packed], tmp_path / "out.gguf", [], None)
    bare = write(tmp_path / "bare.gguf", [*PLAIN, *IQ3_KEYS], [filled(ORDER[0], (256, 4), IQ4_A770)])
    with pytest.raises(UserError, match=r"iq3_a770_r\.version' is missing"):
        pack([bare], tmp_path / "out.gguf", [], None)


def test_the_rule_packs_one_file(model, tmp_path):
    (tmp_path / "order.json").write_text(json.dumps({"promote_order": ORDER, "promote_tie": None}))
    digest = model.with_suffix(".sha256")
    write_digest(model, digest)
    rule = SimpleNamespace(
        input=SimpleNamespace(variants=[model], digests=[digest], order=tmp_path / "order.json", provenance=""),
        output=SimpleNamespace(twin=tmp_path / "twin.gguf", digest=tmp_path / "twin.gguf.sha256"),
        params=SimpleNamespace(license=None, repo=None),
    )
    pack_twin.main(rule)
    assert Twin.read(rule.output.twin).kind == "nested"


def test_budgets_are_prefixes_of_the_file(tmp_path):
    path = nested_twin(tmp_path / "twin.gguf", groups=3)
    view = Twin.read(path)
    low = sum(tensor.nbytes for tensor in view.phase(0))
    for promotions in range(4):
        budget = low + promotions * view.delta(GATES[0], 1)
        spans = [span for tensor in view.take(select(view, budget_bytes=budget).variants) for span in tensor.sources]
        assert max(span.offset + span.nbytes for span in spans) <= view.gguf.data_start + budget + 32 * 7
