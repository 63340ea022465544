"""Checkpoints of other shapes, made from the small model: a few MB each, of its own numbers as far as they go."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from small_run import ROOT

SOURCE = ROOT / "models/nex-n2-nano/checkpoint"
SIDE_FILES = ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
EXPERT = re.compile(r"(?P<before>.*\.mlp\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight")

Tensors = dict[str, torch.Tensor]
Shape = Callable[[Tensors, dict[str, Any]], Tensors]


def write(folder: Path, shape: Shape, layers: int = 4, files: tuple[str, ...] = ("model.safetensors",)) -> Path:
    """Write the first `layers` layers of the small model, changed by `shape`, into `files` of weights."""
    config = json.loads((SOURCE / "config.json").read_text())
    tensors: Tensors = {}
    for path in sorted(SOURCE.glob("*.safetensors")):
        tensors |= load_file(path)
    text = config["text_config"]
    text["num_hidden_layers"] = layers
    text["layer_types"] = text["layer_types"][:layers]
    tensors = {
        name: x for name, x in tensors.items() if not (m := re.search(r"\.layers\.(\d+)\.", name)) or int(m[1]) < layers
    }
    tensors = shape(tensors, config)
    folder.mkdir()
    for name in SIDE_FILES:
        shutil.copy(SOURCE / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    for number, file in enumerate(files):
        part = {name: tensors[name].contiguous() for name in names[number :: len(files)]}
        save_file(part, folder / file, {"format": "pt"})
    if len(files) > 1:
        places = {name: files[index % len(files)] for index, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def as_it_is(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    return tensors


def text_only(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """The class without a vision tower: a flat config.json, no prefix."""
    text = config["text_config"] | {"architectures": ["Qwen3_5MoeForCausalLM"], "dtype": "bfloat16"}
    config.clear()
    config.update(text)
    return {n.replace("model.language_model.", "model."): x for n, x in tensors.items() if ".visual." not in n}


def tower_gone(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """A class with a tower, whose weights were left out."""
    return {name: x for name, x in tensors.items() if ".visual." not in name}


def other_prefix(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """A tower as some tools save it."""
    return {name.replace("model.visual.", "model.language_model.visual."): x for name, x in tensors.items()}


def dense_first(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """A first layer without routed experts."""
    return {name: x for name, x in tensors.items() if ".layers.0.mlp.experts." not in name}


def no_shared_expert(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    return {name: x for name, x in tensors.items() if ".shared_expert" not in name}


def tied(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Embeddings that are the output, too."""
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    return {name: x for name, x in tensors.items() if name != "lm_head.weight"}


def experts(count: int) -> Shape:
    """Another number of experts: the first ones, or the same ones again."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        config["text_config"]["num_experts"] = count
        there = {}
        for name, x in tensors.items():
            if match := EXPERT.fullmatch(name):
                for number in range(int(match["number"]), count, 8):
                    there[f"{match['before']}.{number}.{match['part']}.weight"] = x.clone()
            elif name.endswith(".mlp.gate.weight"):
                there[name] = x.repeat(-(-count // len(x)), 1)[:count].clone()
            else:
                there[name] = x
        return there

    return change


def rows(width: int) -> Shape:
    """Experts of another width: down_proj has rows of it."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        config["text_config"]["moe_intermediate_size"] = width
        for name, x in tensors.items():
            if EXPERT.fullmatch(name):
                down = ".down_proj." in name
                wide = torch.cat([x, x], dim=1 if down else 0)
                tensors[name] = (wide[:, :width] if down else wide[:width]).clone()
        return tensors

    return change


def fused(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """All experts of a layer in two tensors."""
    gathered: dict[str, dict[str, list[tuple[int, torch.Tensor]]]] = {}
    rest = {}
    for name, x in tensors.items():
        if match := EXPERT.fullmatch(name):
            gathered.setdefault(match["before"], {}).setdefault(match["part"], []).append((int(match["number"]), x))
        else:
            rest[name] = x
    for before, parts in gathered.items():
        stacked = {part: torch.stack([x for _, x in sorted(found)]) for part, found in parts.items()}
        rest[f"{before}.gate_up_proj"] = torch.cat([stacked["gate_proj"], stacked["up_proj"]], dim=1)
        rest[f"{before}.down_proj"] = stacked["down_proj"]
    return rest


def transposed(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """The same, rows and columns swapped; not square, so that it shows."""
    tensors = fused(rows(64)(tensors, config), config)
    return {n: x.transpose(1, 2).contiguous() if n.endswith("gate_up_proj") else x for n, x in tensors.items()}


def mtp(declared: bool) -> Shape:
    """An MTP head with weights: one layer with full attention and experts."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        layer, width = "model.language_model.layers.3.", config["text_config"]["hidden_size"]
        head = {f"mtp.layers.0.{n.removeprefix(layer)}": x.clone() for n, x in tensors.items() if n.startswith(layer)}
        head["mtp.fc.weight"] = torch.eye(width).repeat(1, 2).bfloat16()
        names = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
        head |= {f"mtp.{name}.weight": torch.zeros(width).bfloat16() for name in names}
        if not declared:
            del config["text_config"]["mtp_num_hidden_layers"]
        return tensors | head

    return change


def fp8(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """Experts as 8-bit floats with a scale for each block of 128 x 128 weights."""
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    stored = {}
    for name, x in tensors.items():
        if EXPERT.fullmatch(name):
            blocks = x.float().unfold(0, 128, 128).unfold(1, 128, 128)
            scale = blocks.abs().amax((2, 3)) / torch.finfo(torch.float8_e4m3fn).max
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            stored[name] = (x.float() / spread).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
        else:
            stored[name] = x
    return stored


def another_class(name: str, model_type: str, **settings: Any) -> Shape:
    """A class with as many experts; its weights are made up, embeddings and output are the small model's."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        text = config["text_config"]
        width, n_expert, layers = text["hidden_size"], text["num_experts"], text["num_hidden_layers"]
        same = ("hidden_size", "num_attention_heads", "num_experts", "num_experts_per_tok", "moe_intermediate_size")
        same += ("num_hidden_layers", "rms_norm_eps", "vocab_size", "max_position_embeddings", "hidden_act")
        kept = {key: text[key] for key in same} | {"num_key_value_heads": text["num_attention_heads"]}
        config.clear()
        config |= kept | {"architectures": [name], "model_type": model_type, "dtype": "bfloat16", "rope_theta": 10000.0}
        config |= {"intermediate_size": kept["moe_intermediate_size"], "tie_word_embeddings": False} | settings
        gated = "shared_expert_intermediate_size" in settings
        shared = ["shared_expert."] if gated else ["shared_experts."] if "n_shared_experts" in settings else []
        dice = torch.Generator().manual_seed(1)

        def weights(*shape: int) -> torch.Tensor:
            return (torch.randn(shape, generator=dice) * 0.05).bfloat16()

        made = {"model.embed_tokens.weight": tensors["model.language_model.embed_tokens.weight"]}
        made |= {"lm_head.weight": tensors["lm_head.weight"], "model.norm.weight": torch.ones(width).bfloat16()}
        dense = settings.get("first_k_dense_replace", 0)
        for layer in range(layers):
            at = f"model.layers.{layer}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                made[f"{at}{norm}.weight"] = torch.ones(width).bfloat16()
            for part in "qkvo":
                made[f"{at}self_attn.{part}_proj.weight"] = weights(width, width)
            blocks = [""] if layer < dense else [f"experts.{number}." for number in range(n_expert)]
            if layer >= dense:
                made[f"{at}mlp.gate.weight"] = weights(n_expert, width)
                blocks += shared
            for block in blocks:
                for part in ("gate", "up", "down"):
                    made[f"{at}mlp.{block}{part}_proj.weight"] = weights(width, width)
            if gated:
                made[f"{at}mlp.shared_expert_gate.weight"] = weights(1, width)
                for part in "qkv":
                    made[f"{at}self_attn.{part}_proj.bias"] = weights(width)
            else:
                of_head = config.get("head_dim", width)
                for part in "qk":
                    made[f"{at}self_attn.{part}_norm.weight"] = torch.ones(of_head).bfloat16()
        return made

    return change


qwen3_moe = another_class("Qwen3MoeForCausalLM", "qwen3_moe", head_dim=64, norm_topk_prob=True)
qwen2_moe = another_class("Qwen2MoeForCausalLM", "qwen2_moe", shared_expert_intermediate_size=256)
olmoe = another_class("OlmoeForCausalLM", "olmoe", norm_topk_prob=False, clip_qkv=None)
dots1 = another_class(
    "Dots1ForCausalLM",
    "dots1",
    head_dim=64,
    first_k_dense_replace=1,
    n_routed_experts=8,
    n_shared_experts=1,
    routed_scaling_factor=1.0,
    scoring_func="sigmoid",
    norm_topk_prob=True,
)


def flat(shape: Shape) -> Shape:
    """A shape of the class whose config.json has no part for the text model."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        nested = {"text_config": config}
        tensors = shape(tensors, nested)
        config |= {key: value for key, value in nested.items() if key != "text_config"}
        return tensors

    return change


def together(*shapes: Shape) -> Shape:
    """One shape after the other."""

    def change(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        for shape in shapes:
            tensors = shape(tensors, config)
        return tensors

    return change
