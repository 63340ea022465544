"""Recipes: from the configuration to llama-quantize's command line."""

import re

import gguf
import numpy as np
import pytest

from gguf_files import IQ3_A770, PLAIN, Q4_K, Q6_K, Q8_0, Raw, write
from phase_twin.errors import UserError
from phase_twin.experts import routed_experts
from phase_twin.recipes import Recipe
from prune_dual import Gguf
from quantize_recipe import REST_CLASSES, asked_type, quantize_arguments, tell_types
from rank_layers import rank_layers, unseen_experts

RANKING = {"gate": [2, 0, 1], "up": [0, 1, 2], "down": [1, 2, 0]}


def arguments(**recipe) -> tuple[list[str], str]:
    typed = Recipe.model_validate({"gate": "IQ3_A770", "up": "IQ3_A770", "down": "IQ3_A770", "rest": "Q6_K", **recipe})
    plain = {"experts": typed.experts, "rest": typed.rest, "rest_classes": typed.rest_classes}
    return quantize_arguments(plain, RANKING)


def assigned(options: list[str], name: str) -> str | None:
    """The type llama-quantize gives a tensor: the first pattern found in its name."""
    for option in options[1::2]:
        pattern, kind = option.rsplit("=", 1)
        if re.search(pattern, name):
            return kind
    return None


def test_uniform_experts_have_their_own_file_type():
    assert arguments() == ([], "IQ3_A770")


def test_types_by_class():
    options, file_type = arguments(down="Q3_K")
    assert file_type == "Q6_K"
    assert assigned(options, "blk.1.ffn_down_exps.weight") == "q3_k"
    assert assigned(options, "blk.1.ffn_up_exps.weight") == "iq3_a770"
    assert assigned(options, "blk.1.ffn_down_shexp.weight") is None


def test_named_layers_are_raised():
    options, _ = arguments(down={"type": "Q3_K", "raised": "Q4_K", "layers": [0, 2]})
    kinds = [assigned(options, f"blk.{layer}.ffn_down_exps.weight") for layer in (0, 1, 2, 10, 12, 20)]
    assert kinds == ["q4_k", "q3_k", "q4_k", "q3_k", "q3_k", "q3_k"]


def test_most_important_layers_are_raised():
    options, _ = arguments(gate={"type": "IQ3_A770", "raised": "Q4_K", "top": 2})
    kinds = [assigned(options, f"blk.{layer}.ffn_gate_exps.weight") for layer in range(3)]
    assert kinds == ["q4_k", "iq3_a770", "q4_k"]


def test_classes_of_the_rest():
    options, file_type = arguments(rest_classes={"output": "Q8_0", "attention": "Q8_0", "delta_net": "Q6_K"})
    assert file_type == "Q6_K"
    assert assigned(options, "output.weight") == "q8_0"
    assert assigned(options, "output_norm.weight") is None
    assert assigned(options, "blk.3.attn_output.weight") == "q8_0"
    assert assigned(options, "blk.0.attn_qkv.weight") == "q6_k"
    assert assigned(options, "blk.3.attn_q_norm.weight") is None
    assert set(REST_CLASSES) == {"token_embd", "output", "attention", "delta_net", "shared_experts"}


# what tensors of text models are called, of any architecture
NAMES = {f"{name.format(bid=1, xid=1)}.weight" for name in gguf.TENSOR_NAMES.values()}
LAYERS = {name for name in NAMES if re.match(r"blk\.1\.(?!vis_|indexer)", name)}


@pytest.mark.parametrize(
    ("class_", "names"),
    [
        # as a pattern `output` is found in attn_output, too
        ("output", ["output.weight"]),
        ("token_embd", ["token_embd.weight"]),
        ("attention", [f"blk.1.attn_{part}.weight" for part in ("k", "output", "q", "v")]),
        ("delta_net", [f"blk.1.{part}.weight" for part in ("attn_gate", "attn_qkv", "ssm_out")]),
        ("shared_experts", [f"blk.1.ffn_{part}_shexp.weight" for part in ("down", "gate_inp", "gate", "up")]),
    ],
)
def test_a_class_of_the_rest_reaches_no_tensor_of_another(class_, names):
    options, _ = arguments(rest_classes={class_: "Q8_0"})
    others = {name for name in NAMES if not re.match(r"(\w+\.)*\w*blk\.|posnet", name)}
    assert sorted(name for name in LAYERS | others if assigned(options, name) == "q8_0") == names
    recipe = {"experts": {}, "rest": "Q6_K", "rest_classes": {class_: "Q8_0"}}
    experts = {name for name in NAMES if "_exps" in name}
    told = {name for name in (LAYERS | others) - experts if asked_type(name, recipe, RANKING, ()) == "Q8_0"}
    assert sorted(told) == names


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ({"type": "Q3_K", "raised": "Q4_K", "layers": [7]}, "raises layer 7, but the model has layers 0 to 2"),
        ({"type": "Q3_K", "raised": "Q4_K", "top": 9}, "raises the top 9 layers, but the model has 3"),
    ],
)
def test_layers_that_are_not_there(types, words):
    with pytest.raises(UserError, match=words):
        arguments(down=types)


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ({"type": "Q3_K", "raised": "Q4_K"}, "needs `layers` or `top`"),
        ({"type": "Q3_K", "top": 3}, "they need `raised`"),
        ({"type": "Q3_K", "raised": "Q4_K", "top": 3, "layers": [1]}, "one of the two"),
        ({"type": "Q3_K", "raised": "Q4_K", "layers": []}, "at least 1 item"),
    ],
)
def test_half_a_rule_is_refused(types, words):
    with pytest.raises(ValueError, match=words):
        arguments(down=types)


def test_layers_are_ranked_by_energy_within_a_class():
    energy = {
        f"blk.{layer}.ffn_{kind}_exps.weight": value
        for kind in ("gate", "up")
        for layer, value in enumerate((1.0, 3.0, 2.0, 3.0))
    }
    assert rank_layers(energy) == {"gate": [1, 3, 2, 0], "up": [1, 3, 2, 0], "down": []}


def test_the_card_is_told_what_is_raised():
    down = {"type": "Q3_K", "raised": "Q4_K", "top": 24}
    recipe = Recipe(gate="IQ3_A770", up="IQ3_A770", down=down, rest="Q6_K", rest_classes={"output": "Q8_0"})
    told = {"gate": "IQ3_A770", "up": "IQ3_A770", "down": "Q3_K, Q4_K in 24 layers", "rest": "Q6_K, output Q8_0"}
    assert recipe.describe() == told


def told(path, strict=False, **recipe) -> list[str]:
    typed = Recipe.model_validate({"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K", **recipe})
    plain = {"experts": typed.experts, "rest": typed.rest, "rest_classes": typed.rest_classes, "strict": strict}
    return tell_types(Gguf.read(path), plain, RANKING)


def test_types_other_than_asked_for_are_told(tmp_path):
    q5_0 = int(gguf.GGMLQuantizationType.Q5_0)
    downs = [Raw(f"blk.{number}.ffn_down_exps.weight", (128, 256, 2), q5_0) for number in range(2)]
    tensors = [
        Raw("output_norm.weight", (256,)),
        Raw("output.weight", (256, 8), Q6_K),
        Raw("blk.0.attn_v.weight", (256, 8), Q8_0),
        Raw("blk.0.ffn_gate_exps.weight", (256, 128, 2), Q4_K),
        *downs,
    ]
    path = write(tmp_path / "m.gguf", PLAIN, tensors)
    odd = "ffn_down_exps.weight: Q5_0 in place of Q4_K in 2 tensors: 128 columns are no multiple of 256"
    own = "attn_v.weight: Q8_0 in place of Q6_K in 1 tensors: llama-quantize's own choice"
    assert told(path) == [own, odd]
    assert told(path, rest_classes={"attention": "Q8_0"}) == [odd]
    assert told(path, down="Q5_0", strict=True) == [own]
    with pytest.raises(UserError, match=f"^{odd}; give it a type of 32-blocks"):
        told(path, strict=True)
    raised = {"type": "Q5_0", "raised": "Q4_K", "layers": [1]}
    assert told(path, down=raised) == [own, odd.replace("2 tensors", "1 tensors")]


def test_experts_without_data_are_counted():
    sums = np.ones((3, 4))
    imatrix = {
        f"blk.{layer}.ffn_{part}_exps.weight": (sums, np.array(counts))
        for layer, counts in enumerate(([5, 0, 1], [2, 2, 2], [0, 0, 9]))
        for part in ("gate", "up", "down")
    }
    assert unseen_experts(imatrix) == {"experts": 9, "without_data": 3, "layers": [0, 2]}


def test_an_mtp_head_is_stored_at_q8_0(tmp_path):
    plain = {name: {"type": "IQ3_A770", "raised": None, "layers": None, "top": None} for name in RANKING}
    recipe = {"experts": plain, "rest": "Q6_K", "rest_classes": {}, "strict": True}
    options, file_type = quantize_arguments(recipe, RANKING, range(3, 4))
    assert file_type == "IQ3_A770"
    assert assigned(options, "blk.3.ffn_up_exps.weight") == assigned(options, "blk.3.attn_v.weight") == "q8_0"
    assert assigned(options, "blk.13.ffn_up_exps.weight") is None
    keys = [*PLAIN, ("qwen35moe.block_count", "u32", 4), ("qwen35moe.nextn_predict_layers", "u32", 1)]
    names = [f"blk.{number}.ffn_up_exps.weight" for number in (2, 3)]
    path = write(tmp_path / "m.gguf", keys, [Raw(names[0], (256, 2, 2), IQ3_A770), Raw(names[1], (256, 2, 2), Q8_0)])
    assert tell_types(Gguf.read(path), recipe, RANKING) == []
    assert [tensor.name for tensor in routed_experts(Gguf.read(path))] == names[:1]
