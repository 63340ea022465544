"""What a look at a checkpoint's files says: one line that names the file and what to do."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from convert_checkpoint import run_converter
from phase_twin.checkpoint import INDEX, look_at, pre_tokenizer_of
from phase_twin.errors import UserError

EXPERTS, LAYERS, WIDTH = 3, 2, 4
SHARD = "model-0000{}-of-00003.safetensors"
PARTS = ("gate_proj", "up_proj", "down_proj")
CONFIG = {"num_hidden_layers": LAYERS, "num_experts": EXPERTS, "hidden_size": WIDTH, "tie_word_embeddings": False}


def write(folder, *, change=lambda tensors, config: None, model_class="Qwen3_5MoeForConditionalGeneration"):
    """A checkpoint of few numbers: layers 0 and 1 in one file each, the rest in a third, and an index."""
    names = [
        f"model.layers.{n}.mlp.experts.{e}.{p}.weight" for n in range(LAYERS) for e in range(EXPERTS) for p in PARTS
    ]
    names += [f"model.layers.{n}.mlp.shared_expert.up_proj.weight" for n in range(LAYERS)]
    names += ["lm_head.weight", "model.visual.blocks.0.attn.proj.weight"]
    tensors = {name: np.zeros((2, WIDTH), np.float16) for name in names}
    config = {"architectures": [model_class], "text_config": dict(CONFIG)}
    change(tensors, config["text_config"])
    places = {
        name: f"model-0000{1 + ('layers.1' in name) + 2 * ('layers' not in name)}-of-00003.safetensors"
        for name in tensors
    }
    for place in sorted(set(places.values())):
        save_file({name: x for name, x in tensors.items() if places[name] == place}, folder / place)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    return folder


def test_a_whole_checkpoint(tmp_path):
    found = look_at(write(tmp_path), range(LAYERS), tower=True)
    assert found.tower == ["model.visual.blocks.0.attn.proj.weight"]
    assert found.mtp == []
    assert {layer: sorted(parts) for layer, parts in found.experts.items()} == {0: sorted(PARTS), 1: sorted(PARTS)}
    (tmp_path / INDEX).unlink()
    assert look_at(tmp_path, range(LAYERS), tower=True).shapes == found.shapes


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


FILES = {
    "config": (lambda d: (d / "config.json").unlink(), r"/config\.json: missing; download it"),
    "config, half": (lambda d: cut(d / "config.json"), r"/config\.json: is no JSON .*; download it again"),
    "shard": (lambda d: (d / SHARD.format(2)).unlink(), r"/model-00002-of-00003\.safetensors: missing, though model"),
    "shard, no index": (
        lambda d: [(d / name).unlink() for name in (INDEX, SHARD.format(2))],
        r"/model-00002-of-00003\.safetensors: missing, though there is model-00001-of-00003",
    ),
    "shard, cut": (
        lambda d: cut(d / SHARD.format(3)),
        r"/model-00003-of-00003\.safetensors: is cut, \d+ bytes where its head says \d+",
    ),
    "shard, a pointer": (
        lambda d: (d / SHARD.format(1)).write_text("version https://git-lfs"),
        r"no safetensors file \(a Git LFS pointer",
    ),
    "shard of another version": (
        lambda d: shutil.copy(d / SHARD.format(1), d / SHARD.format(2)),
        r"/model-00002-of-00003\.safetensors: model\.layers\.0.* is not in model\.safetensors\.index\.json",
    ),
    "names": (
        lambda d: [(d / INDEX).unlink(), *(p.rename(d / f"a{p.name}") for p in [*d.glob("*.safetensors")])],
        r"/amodel-00001-of-00003\.safetensors: the converter reads model\*",
    ),
    "no weights": (lambda d: [p.unlink() for p in [*d.glob("model*")]], r": no weights; download the \*\.safetensors"),
    "index": (lambda d: (d / INDEX).write_text("[]"), r"index\.json: is not what its name says"),
    "index of numbers": (
        lambda d: (d / INDEX).write_text('{"weight_map": {"lm_head.weight": 3}}'),
        r"index\.json: has no weight_map of tensors to files; download it again",
    ),
    "config, nested": (lambda d: (d / "config.json").write_text("[" * 100_000), r"/config\.json: is no JSON"),
    "config, byte order mark": (
        lambda d: (d / "config.json").write_text((d / "config.json").read_text(), "utf-8-sig"),
        r"/config\.json: is no JSON \(Unexpected UTF-8 BOM",
    ),
    "config without text": (
        lambda d: (d / "config.json").write_text('{"text_config": null}'),
        r"/config\.json: text_config is not an object; download it again",
    ),
    "config, class": (
        lambda d: (d / "config.json").write_text('{"architectures": "Qwen3_5MoeForCausalLM"}'),
        r"/config\.json: architectures is not a list; download it again",
    ),
    "shard, nested": (
        lambda d: (d / SHARD.format(1)).write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000),
        r"/model-00001-of-00003\.safetensors: is no safetensors file, or its head is cut",
    ),
    "link to nowhere": (
        lambda d: (d / "tokenizer_config.json").symlink_to("../../blobs/0"),
        r"/tokenizer_config\.json: missing; download it",
    ),
    "tokenizer": (lambda d: (d / "tokenizer.json").unlink(), r"/tokenizer\.json: missing; download it"),
    "tokenizer, cut": (lambda d: cut(d / "tokenizer.json"), r"/tokenizer\.json: is no JSON"),
    "preprocessor": (
        lambda d: (d / "preprocessor_config.json").unlink(),
        r"/preprocessor_config\.json: missing, which the vision tower needs",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file(tmp_path, case):
    spoil, line = FILES[case]
    spoil(write(tmp_path))
    with pytest.raises(UserError, match=line) as error:
        look_at(tmp_path, range(LAYERS), tower=True)
    assert "\n" not in str(error.value)


def without(part):
    def change(tensors, config):
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


def fused(rows, columns):
    def change(tensors, config):
        without("experts.")(tensors, config)
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}.mlp"
            tensors[f"{prefix}.experts.gate_up_proj"] = np.zeros((EXPERTS, rows, columns), np.float16)
            tensors[f"{prefix}.experts.down_proj"] = np.zeros((EXPERTS, columns, rows // 2), np.float16)
            tensors[f"{prefix}.shared_expert.up_proj.weight"] = np.zeros((2, 2), np.float16)

    return change


def says(**facts):
    return lambda tensors, config: config.update(facts)


SHAPES = {
    "no experts": (without("experts."), "no tensor of routed experts"),
    "dense first layer": (
        without("layers.0.mlp.experts"),
        "layer 0 has no routed experts, without which the engine does not load a Qwen3_5Moe",
    ),
    "an expert": (without("layers.1.mlp.experts.2"), r"layer 1 has no \w+ of expert 2, though config\.json says 3"),
    "more experts": (says(num_experts=2), r"layer 0 has 3 experts, config\.json says 2"),
    "no shared expert": (without("layers.1.mlp.shared"), "layer 1 has no shared expert"),
    "layers": (says(num_hidden_layers=3), r"no tensor of layer 2, though config\.json says 3"),
    "layers beyond memory": (says(num_hidden_layers=10**12), r"no tensor of layer 2, though config\.json says 10+ lay"),
    "experts beyond memory": (
        says(num_experts=10**12),
        r"layer 0 has no \w+ of expert 3, though config\.json says 10+",
    ),
    "layers unsaid": (says(num_hidden_layers=None), "num_hidden_layers is missing"),
    "head": (without("lm_head"), r"lm_head\.weight is missing"),
    "transposed": (fused(WIDTH, 6), r"gate_up_proj is \[3, 4, 6\], expected \[3, 2 x rows, 4\]"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_shape(tmp_path, case):
    change, line = SHAPES[case]
    with pytest.raises(UserError, match=line) as error:
        look_at(write(tmp_path, change=change), range(LAYERS), tower=False)
    assert "\n" not in str(error.value)


def test_a_tower_that_is_not_there(tmp_path):
    write(tmp_path, change=without("visual"))
    with pytest.raises(UserError, match=r"has no vision tower; set model\.vision_tower: false$"):
        look_at(tmp_path, range(LAYERS), tower=True)
    (tmp_path / "preprocessor_config.json").unlink()
    assert look_at(tmp_path, range(LAYERS), tower=False).tower == []


def test_a_head_that_is_not_there(tmp_path):
    write(tmp_path, change=says(mtp_num_hidden_layers=1))
    with pytest.raises(UserError, match=r"no weights of an MTP head, .* set model\.mtp: drop$"):
        look_at(tmp_path, range(LAYERS), tower=True, head=True)


def test_dense_layers_come_first(tmp_path):
    folder = write(tmp_path, change=without("layers.0.mlp.experts"), model_class="Dots1ForCausalLM")
    look_at(folder, range(1, LAYERS), tower=False)
    with pytest.raises(UserError, match=r"in layers 1 to 1, .* say 0 to 1; set model\.moe_layers: 1, dense_layers: 1$"):
        look_at(folder, range(LAYERS), tower=False)


def test_layers_other_than_set(tmp_path):
    with pytest.raises(UserError, match=r"in layers 0 to 1, .* say 0 to 39; set model\.moe_layers: 2, dense_layers: 0"):
        look_at(write(tmp_path), range(40), tower=True)


@pytest.mark.parametrize(
    "change", [fused(6, WIDTH), without("visual"), lambda tensors, config: config.pop("num_experts")]
)
def test_shapes_that_are_taken(tmp_path, change):
    look_at(write(tmp_path, change=change), range(LAYERS), tower=False)


def test_the_head_may_be_tied(tmp_path):
    def change(tensors, config):
        del tensors["lm_head.weight"]
        config["tie_word_embeddings"] = True

    look_at(write(tmp_path, change=change), range(LAYERS), tower=False)


def test_a_tokenizer_that_the_converter_does_not_know(tmp_path, root):
    shutil.copy(root / "models/nex-n2-nano/checkpoint/tokenizer.json", tmp_path)
    assert pre_tokenizer_of(tmp_path) == "qwen35"
    said = ["sh", "-c", "echo chatter; echo 'refused: the converter does not know it'; exit 1"]
    remedy = "set model.tokenizer_pre: qwen35, which has its rule"
    line = f"{tmp_path}/tokenizer.json: the converter does not know it; {remedy}"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        run_converter(said, tmp_path / "log", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"set model\.tokenizer_pre$"):
        run_converter(said, tmp_path / "log", tmp_path)
    for line in (
        "unsupported: Quant method is not yet supported: 'awq'",
        "ERROR:hf-to-gguf:Model Foo is not supported",
    ):
        reason = re.escape(line.replace("unsupported: ", "").replace("ERROR:hf-to-gguf:", ""))
        with pytest.raises(UserError, match=rf"^{tmp_path}: llama\.cpp's converter cannot read it: {reason}; where"):
            run_converter(["sh", "-c", f'echo "{line}"; exit 1'], tmp_path / "log", tmp_path)
    with pytest.raises(UserError, match="sh failed"):
        run_converter(["sh", "-c", "exit 1"], tmp_path / "log", tmp_path)
