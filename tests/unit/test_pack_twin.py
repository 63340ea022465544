"""What goes into the twin comes out of it: pack, verify, prune."""

import json
from types import SimpleNamespace

import pytest

import gguf_files
import pack_twin
import verify_twin
from gguf_files import CODEBOOK, F32, IQ3_A770, PLAIN, Q3_K, Q4_K, Q5_K, Raw, expert, filled, nano_variants
from pack_twin import pack
from phase_twin.errors import UserError
from phase_twin.files import check_digest, write_digest
from phase_twin.origin import add_origin
from prune_dual import Gguf, Twin, prune, select
from verify_twin import verify_bytes

ORDER = [expert(0, "down"), expert(1, "gate"), expert(1, "up"), expert(0, "gate"), expert(0, "up")]


@pytest.fixture
def variants(tmp_path):
    return nano_variants(tmp_path)


@pytest.fixture
def twin(tmp_path, variants):
    pack(variants, tmp_path / "twin.gguf", ORDER, [3, 0, 0, 1, 1], provenance={"version": "1.0", "chunks": 100})
    return tmp_path / "twin.gguf"


def contents(path) -> list[tuple]:
    return [(t.name, t.shape, t.type, t.data.read()) for t in Gguf.read(path).tensors]


@pytest.mark.parametrize("number", [0, 1])
def test_each_phase_comes_out_as_it_went_in(twin, variants, tmp_path, number):
    view = Twin.read(twin)
    prune(view, select(view, variant=number), tmp_path / "out.gguf")
    assert contents(tmp_path / "out.gguf") == contents(variants[number])


def test_groups_are_what_differs(twin):
    view = Twin.read(twin)
    assert set(view.groups) == set(ORDER), "the last layer's down is the same in both: stored once"
    assert (view.promote_order, view.promote_tie) == (ORDER, [3, 0, 0, 1, 1])
    assert (view.count, view.default, view.budget_mb) == (2, 0, 0)


def test_one_phase_is_one_stretch_of_the_file(twin, variants):
    names = [tensor.name for tensor in Gguf.read(twin).tensors]
    plain = [tensor.name for tensor in Gguf.read(variants[0]).tensors]
    assert names == plain + [f"{name}.v1" for name in plain if name in ORDER]


def test_keys_are_those_of_variant_0_and_ours(twin, variants):
    model, source = Gguf.read(twin), Gguf.read(variants[0])
    for name, entry in source.kv.items():
        assert model.kv[name].value == entry.value, name
    assert model.get("general.file_type", "u32") == 770
    assert model.get("iq3_a770.codebook", "[i8]") == CODEBOOK
    assert model.get("phase_twin.version", "str") == "1.0"
    assert model.get("phase_twin.chunks", "u32") == 100


def test_type_keys_are_added_where_only_variant_1_has_the_type(tmp_path):
    paths = list(reversed(nano_variants(tmp_path)))
    pack(paths, tmp_path / "twin.gguf", [], None)
    assert Gguf.read(tmp_path / "twin.gguf").get("iq3_a770.version", "u32") == 1


def test_default_budget_and_missing_ties(variants, tmp_path):
    pack(variants, tmp_path / "twin.gguf", ORDER, None, default=1, budget_mb=7)
    view = Twin.read(tmp_path / "twin.gguf")
    assert (view.default, view.budget_mb, view.promote_tie) == (1, 7, None)


def test_three_variants(tmp_path):
    paths = [
        gguf_files.write(
            tmp_path / f"{kind}.gguf", PLAIN, [filled("n", (256,), F32), filled(expert(0, "up"), (256, 4), kind)]
        )
        for kind in (Q3_K, Q4_K, Q5_K)
    ]
    pack(paths, tmp_path / "twin.gguf", [expert(0, "up")], None)
    view = Twin.read(tmp_path / "twin.gguf")
    assert [t.name for t in view.gguf.tensors] == ["n", *(expert(0, "up") + end for end in ("", ".v1", ".v2"))]
    for number, path in enumerate(paths):
        prune(view, select(view, variant=number), tmp_path / "out.gguf", force=True)
        assert contents(tmp_path / "out.gguf") == contents(path)


def test_order_may_name_what_is_the_same_in_all(variants, tmp_path):
    order = [expert(1, "down"), *ORDER]
    pack(variants, tmp_path / "twin.gguf", order, [9, 3, 0, 0, 1, 1])
    view = Twin.read(tmp_path / "twin.gguf")
    assert (view.promote_order, view.promote_tie) == (ORDER, [3, 0, 0, 1, 1])


def test_an_expert_of_one_type_but_other_bytes_is_a_group(tmp_path):
    paths = [
        gguf_files.write(tmp_path / f"{seed}.gguf", PLAIN, [filled(expert(0, "up"), (256, 4), Q4_K, seed)])
        for seed in ("a", "b")
    ]
    assert pack(paths, tmp_path / "twin.gguf", [expert(0, "up")], None) == [expert(0, "up")]


@pytest.mark.parametrize("alignment", [8, 16, 64])
def test_data_stands_on_32_bytes_at_least(tmp_path, alignment):
    keys = [*PLAIN, ("general.alignment", "u32", alignment)]
    paths = [
        gguf_files.write(tmp_path / f"{kind}.gguf", keys, [filled("norm", (3,), F32), up], alignment=alignment)
        for kind, up in (("low", UP), ("high", HIGH))
    ]
    pack(paths, tmp_path / "twin.gguf", [UP.name], None)
    model = Gguf.read(tmp_path / "twin.gguf")
    assert model.get("general.alignment", "u32") == model.alignment == max(32, alignment)
    assert all(tensor.data.offset % max(32, alignment) == 0 for tensor in model.tensors)
    assert verify_bytes(tmp_path / "twin.gguf", paths)["groups"] == 1


def test_what_is_said_of_the_bytes_of_variant_0_does_not_go_into_the_twin(tmp_path, caplog):
    said = [("c2pa:manifest", "[u8]", [1, 2]), ("general.source.sha256", "str", "of the checkpoint")]
    paths = [gguf_files.write(tmp_path / f"{number}.gguf", PLAIN + said, [up]) for number, up in enumerate((UP, HIGH))]
    pack(paths, tmp_path / "twin.gguf", [UP.name], None)
    model = Gguf.read(tmp_path / "twin.gguf")
    assert "c2pa:manifest" not in model.kv
    assert model.get("general.source.sha256", "str") == "of the checkpoint"
    assert f"{paths[0]}: c2pa:manifest: of that file's bytes, so not in the twin" in caplog.text
    assert verify_bytes(tmp_path / "twin.gguf", paths)["groups"] == 1


PAGE = "https://huggingface.co/nex-agi/Nex-N2-mini"


def test_licence_and_origin_are_said_in_the_twin_and_in_what_is_cut_from_it(variants, tmp_path):
    pack(variants, tmp_path / "twin.gguf", ORDER, None, license="Apache-2.0", repo="nex-agi/Nex-N2-mini")
    view = Twin.read(tmp_path / "twin.gguf")
    prune(view, select(view, variant=1), tmp_path / "fit.gguf")
    for path in ("twin.gguf", "fit.gguf"):
        said = {key: kv.value for key, kv in Gguf.read(tmp_path / path).kv.items() if key.startswith("general.")}
        assert (
            said.items()
            >= {
                "general.license": "Apache-2.0",
                "general.license.link": "https://spdx.org/licenses/Apache-2.0.html",
                "general.size_label": "25K",  # of one phase: 2048 + 3 * 256 + 4 * 3072 + 2 * 5120 weights
                "general.source.url": PAGE,
                "general.source.repo_url": PAGE,
                "general.base_model.count": 1,
                "general.base_model.0.name": "Nex N2 mini",
                "general.base_model.0.organization": "nex-agi",
                "general.base_model.0.repo_url": PAGE,
            }.items()
        )
        assert said["general.quantized_by"].startswith("Phase Twin ")


def test_what_the_checkpoints_card_says_is_kept(tmp_path):
    said = [
        ("general.license", "str", "other"),
        ("general.license.name", "str", "a licence"),
        ("general.base_model.count", "u32", 2),
        ("general.size_label", "str", "256x1B"),
    ]
    paths = [gguf_files.write(tmp_path / f"{n}.gguf", PLAIN + said, [up]) for n, up in enumerate((UP, HIGH))]
    pack(paths, tmp_path / "twin.gguf", [UP.name], None, license="MIT", repo="a/b")
    model = Gguf.read(tmp_path / "twin.gguf")
    for key, _, value in said:
        assert model.kv[key].value == value
    assert not model.kv.keys() & {"general.license.link", "general.base_model.0.name"}


def test_a_vision_tower_says_its_origin_too(tmp_path):
    tensors = [filled("v.patch_embd.weight", (16, 16), F32), filled("v.norm", (3,), F32)]
    path = gguf_files.write(tmp_path / "mmproj.gguf", [("general.architecture", "str", "clip")], tensors)
    before = contents(path)
    add_origin(path, "MIT", "a/b-c")
    assert contents(path) == before
    assert Gguf.read(path).get("general.license", "str") == "MIT"
    assert Gguf.read(path).get("general.base_model.0.name", "str") == "b c"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mmproj.gguf"]


def test_weights_of_the_users_own_have_no_origin(variants, tmp_path):
    pack(variants, tmp_path / "twin.gguf", ORDER, None, license="MIT")
    kv = Gguf.read(tmp_path / "twin.gguf").kv
    assert kv["general.license"].value == "MIT"
    assert not any(key.startswith(("general.base_model.", "general.source.")) for key in kv)


def test_same_bytes_each_time(variants, tmp_path):
    for name in ("a", "b"):
        pack(variants, tmp_path / name, ORDER, None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def one(path, *tensors):
    return gguf_files.write(path, PLAIN, tensors)


UP = filled(expert(0, "up"), (256, 4), Q3_K)
HIGH = filled(expert(0, "up"), (256, 4), Q4_K)
NORM = filled("norm", (256,), F32)


@pytest.mark.parametrize(
    ("second", "order", "tie", "words"),
    [
        ([NORM], [], None, [UP.name]),
        ([NORM, HIGH, filled("more", (4,), F32)], [], None, ["more"]),
        ([filled("norm", (256,), F32, "other"), HIGH], [], None, ["norm", "other bytes", "1.gguf"]),
        ([NORM, filled(UP.name, (256, 5), Q4_K)], [], None, [UP.name, "shape"]),
        ([NORM, UP], [], None, ["nothing to pack"]),
        ([NORM, HIGH], ["unknown"], None, ["unknown"]),
        ([NORM, HIGH], [UP.name], [1, 2], ["promote_tie"]),
        ([NORM, Raw(UP.name, (256, 4), IQ3_A770)], [UP.name], [1, 2], ["promote_tie"]),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, second, order, tie, words):
    paths = [one(tmp_path / "0.gguf", NORM, UP), one(tmp_path / "1.gguf", *second)]
    with pytest.raises(UserError) as error:
        pack(paths, tmp_path / "twin.gguf", order, tie)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "twin.gguf").exists()


def test_a_twin_cannot_be_packed_again(twin, tmp_path):
    with pytest.raises(UserError, match=r"\.v1"):
        pack([twin, twin], tmp_path / "again.gguf", [], None)


def test_default_beyond_the_variants_is_refused(variants, tmp_path):
    with pytest.raises(UserError, match="default variant 2"):
        pack(variants, tmp_path / "twin.gguf", ORDER, None, default=2)


def test_inputs_are_never_replaced(variants):
    before = variants[1].read_bytes()
    with pytest.raises(UserError, match="is the input"):
        pack(variants, variants[1], ORDER, None)
    assert variants[1].read_bytes() == before


# verify


def test_verify_reports_every_tensor(twin, variants):
    report = verify_bytes(twin, variants)
    tensors = Gguf.read(twin).tensors
    assert report["groups"] == 5
    assert report["bytes"] == sum(tensor.nbytes for tensor in tensors)
    assert {name: (facts["type"], facts["bytes"]) for name, facts in report["tensors"].items()} == {
        tensor.name: (tensor.type_name, tensor.nbytes) for tensor in tensors
    }
    small, large = report["types"]
    assert small["gate"] == small["up"] == {"IQ3_A770": 2}
    assert small["down"] == {"IQ3_A770": 1, "Q4_K": 1}
    assert large["gate"] == large["up"] == large["down"] == {"Q4_K": 2}
    assert small["rest"] == large["rest"] == {"F32": 3, "Q6_K": 1}


@pytest.mark.parametrize("name", ["token_embd.weight", expert(0, "up"), f"{expert(0, 'down')}.v1"])
def test_verify_finds_one_changed_byte(twin, variants, name):
    span = next(tensor.data for tensor in Gguf.read(twin).tensors if tensor.name == name)
    with open(twin, "r+b") as file:
        file.seek(span.offset + span.nbytes - 1)
        last = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(UserError, match=name):
        verify_bytes(twin, variants)


def test_verify_finds_a_changed_key(twin, variants):
    data = twin.read_bytes()
    twin.write_bytes(data.replace(b"variant 0", b"variant 9"))
    with pytest.raises(UserError, match=r"quantize\.imatrix\.file"):
        verify_bytes(twin, variants)


def test_verify_finds_the_wrong_sources(twin, variants, tmp_path):
    with pytest.raises(UserError, match="packed were 1"):
        verify_bytes(twin, variants[:1])
    other = one(tmp_path / "other.gguf", UP, NORM)
    with pytest.raises(UserError, match="is in"):
        verify_bytes(twin, [variants[0], other])


def test_rule_scripts_map_files_to_functions(variants, tmp_path):
    (tmp_path / "order.json").write_text(json.dumps({"promote_order": ORDER, "promote_tie": None}))
    (tmp_path / "provenance.json").write_text(json.dumps({"pipeline_version": "1"}))
    digests = [path.with_suffix(".sha256") for path in variants]
    for path, digest in zip(variants, digests, strict=True):
        write_digest(path, digest)
    rule = SimpleNamespace(
        input=SimpleNamespace(
            variants=variants, digests=digests, order=tmp_path / "order.json", provenance=tmp_path / "provenance.json"
        ),
        output=SimpleNamespace(twin=tmp_path / "deep" / "twin.gguf", digest=tmp_path / "deep" / "twin.gguf.sha256"),
        params=SimpleNamespace(license="Apache-2.0", repo="nex-agi/Nex-N2-mini"),
    )
    pack_twin.main(rule)
    assert Gguf.read(rule.output.twin).get("phase_twin.pipeline_version", "str") == "1"
    assert Gguf.read(rule.output.twin).get("general.license", "str") == "Apache-2.0"
    report = verify_twin.verify_bytes(rule.output.twin, variants)
    assert len(report["tensors"]) == len(Gguf.read(rule.output.twin).tensors)
    assert check_digest(rule.output.twin, rule.output.digest)
