"""Layer counts are set after the tensor list, and only where they disagree with it."""

import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from convert_checkpoint import count_blocks, mend_block_count, nextn_options
from convert_tower import check_tower
from phase_twin.errors import UserError
from phase_twin.files import sha256_file
from prune_dual import Gguf


def model(path, blocks: int, declared: int, nextn: int | None, tensors: list[str] | None = None, recurrent: int = 0):
    writer = gguf.GGUFWriter(path, "qwen35moe")
    writer.add_uint32("qwen35moe.block_count", declared)
    writer.add_string("general.name", "after it, so that a wrong offset shows")
    if nextn is not None:
        writer.add_uint32("qwen35moe.nextn_predict_layers", nextn)
    if recurrent:
        writer.add_array("qwen35moe.attention.recurrent_layers", [True] * recurrent)
    for name in tensors or [f"blk.{number}.attn_norm.weight" for number in range(blocks)]:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_declared_head_without_weights_is_mended(tmp_path):
    path = model(tmp_path / "m.gguf", blocks=40, declared=41, nextn=1)
    changes = mend_block_count(path)
    assert changes == ["qwen35moe.block_count 41 -> 40", "qwen35moe.nextn_predict_layers 1 -> 0"]
    reader = gguf.GGUFReader(path)
    assert reader.fields["qwen35moe.block_count"].contents() == 40
    assert reader.fields["qwen35moe.nextn_predict_layers"].contents() == 0
    assert reader.fields["general.name"].contents().startswith("after it")
    assert len(reader.tensors) == 40


@pytest.mark.parametrize("nextn", [0, None])
def test_a_right_model_stays_untouched(tmp_path, nextn):
    path = model(tmp_path / "m.gguf", blocks=8, declared=8, nextn=nextn)
    before = sha256_file(path)
    assert mend_block_count(path) == []
    assert sha256_file(path) == before


def test_a_head_with_weights_is_kept(tmp_path):
    names = ["blk.0.attn_norm.weight", "blk.1.attn_norm.weight", "blk.1.nextn.eh_proj.weight"]
    path = model(tmp_path / "m.gguf", blocks=2, declared=2, nextn=1, tensors=names)
    assert mend_block_count(path) == []
    assert Gguf.read(path).kv["qwen35moe.block_count"].value == 2


def test_a_list_of_more_blocks_than_there_are_is_refused(tmp_path):
    mend_block_count(model(tmp_path / "right.gguf", blocks=2, declared=2, nextn=None, recurrent=2))
    path = model(tmp_path / "m.gguf", blocks=2, declared=3, nextn=1, recurrent=3)
    with pytest.raises(UserError, match="recurrent_layers has 3 entries, the tensors have 2 blocks"):
        mend_block_count(path)


@pytest.mark.parametrize(
    ("declared", "names", "options"),
    [
        (1, ["lm_head.weight"], ("--no-nextn",)),
        (1, ["lm_head.weight", "mtp.fc.weight"], ("--no-nextn",)),
        (None, ["model.mtp.layers.0.mlp.gate.weight"], ("--no-nextn",)),
        (0, ["lm_head.weight"], ()),
        (None, ["lm_head.weight"], ()),
    ],
)
def test_the_converter_is_told_of_a_head_without_weights(tmp_path, declared, names, options):
    facts = {} if declared is None else {"mtp_num_hidden_layers": declared}
    for number, name in enumerate(names):
        save_file({name: np.ones(2, np.float32)}, tmp_path / f"model-{number}.safetensors")
    for config in (facts, {"text_config": facts}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert nextn_options(tmp_path) == options


@pytest.mark.parametrize("name", ["mtp.layers.0.mlp.gate.weight", "model.layers.2.mlp.gate.weight"])
def test_a_head_with_weights_can_be_kept(tmp_path, name):
    save_file({name: np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    facts = {"architectures": ["Qwen3_5MoeForCausalLM"], "num_hidden_layers": 2, "mtp_num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert nextn_options(tmp_path, keep=True) == ()
    assert nextn_options(tmp_path) == ("--no-nextn",)
    save_file({"mtp.fc.weight": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    assert nextn_options(tmp_path, keep=True) == ("--no-nextn",)


def test_a_class_that_can_have_a_head_is_converted_without(tmp_path):
    save_file({"lm_head.weight": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3_5MoeForCausalLM"]}))
    assert nextn_options(tmp_path) == ("--no-nextn",)


def test_a_gap_in_the_layers_is_refused():
    with pytest.raises(UserError, match=r"no blk\.1"):
        count_blocks(["blk.0.a", "blk.2.a"])


@pytest.mark.parametrize(
    ("names", "depth", "line"),
    [
        (["v.blk.0.ln1.weight", "v.blk.1.ln1.weight", "mm.0.weight"], 2, None),
        (["v.blk.0.ln1.weight"], None, None),
        (["v.blk.0.ln1.weight"], 2, r"m\.gguf: 1 blocks of a vision tower .* expected 2 blocks; download"),
        (["mm.0.weight"], None, "0 blocks of a vision tower .* expected blocks; .* set model.vision_tower: false"),
    ],
)
def test_an_mmproj_has_a_vision_tower(tmp_path, names, depth, line):
    path = model(tmp_path / "m.gguf", blocks=0, declared=0, nextn=None, tensors=names)
    if line:
        with pytest.raises(UserError, match=line):
            check_tower(path, depth)
    else:
        assert check_tower(path, depth) == sum("blk" in name for name in names)
