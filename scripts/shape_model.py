"""Write a GGUF with the tensor shapes of Nex-N2-mini, few layers, random weights and nano's vocabulary.

usage: shape_model.py --template NANO.gguf --layers 4 --experts IQ3_A770 [--rest Q6_K] [--nested] [--whole-vocabulary]
                      --out MODEL.gguf

It answers nothing: it is there to be traced and timed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType

from pack_twin import variant_kv
from phase_twin.errors import UserError
from prune_dual import (
    BLOCK_SIZES,
    FILE_TYPES,
    IQ3_A770,
    IQ3_A770_R,
    IQ4_A770,
    NESTED,
    TYPE_KEYS,
    Gguf,
    Kv,
    Span,
    Tensor,
    encode_kv,
    type_kv,
    variant_name,
    write_gguf,
)

LAYERS, VOCABULARY = 40, 248_320
VOCABULARY_KEY = "qwen35moe.vocab_size"
D_MODEL, D_FF, EXPERTS, EXPERTS_USED = 2048, 512, 256, 8
HEADS, KV_HEADS, HEAD_DIM, ROPE_DIM = 16, 2, 256, 64
STATE, INNER, GROUPS, CONV = 128, 4096, 16, 4
ATTENTION_EVERY = 4  # the other layers are gated delta nets

F32, Q6_K = int(GGMLQuantizationType.F32), int(GGMLQuantizationType.Q6_K)
TYPES = {"IQ3_A770": IQ3_A770, "IQ4_A770": IQ4_A770} | {
    kind: int(GGMLQuantizationType[kind]) for kind in ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ3_XXS", "IQ3_S", "IQ4_XS")
}

# where the halves of a block are that scale it; random bits there would be anything up to infinity
SCALES = {IQ3_A770: [100], IQ3_A770_R: [], IQ4_A770: [100], TYPES["Q3_K"]: [108], Q6_K: [208]}
SCALES |= {TYPES[kind]: [0, 2] for kind in ("Q4_K", "Q5_K")}
SCALES |= {TYPES[kind]: [0] for kind in ("IQ3_XXS", "IQ3_S", "IQ4_XS")}

SIZES = {
    "block_count": 0,
    "embedding_length": D_MODEL,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
    "rope.dimension_count": ROPE_DIM,
    "expert_count": EXPERTS,
    "expert_used_count": EXPERTS_USED,
    "expert_feed_forward_length": D_FF,
    "expert_shared_feed_forward_length": D_FF,
    "ssm.conv_kernel": CONV,
    "ssm.state_size": STATE,
    "ssm.group_count": GROUPS,
    "ssm.time_step_rank": INNER // STATE,
    "ssm.inner_size": INNER,
    "full_attention_interval": ATTENTION_EVERY,
}


def layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer: name -> shape, row length first. One-dimensional ones and the router are F32."""
    channels, steps = INNER + 2 * GROUPS * STATE, INNER // STATE
    if (layer + 1) % ATTENTION_EVERY:
        mixer = {
            "attn_qkv.weight": (D_MODEL, channels),
            "attn_gate.weight": (D_MODEL, INNER),
            "ssm_a": (steps,),
            "ssm_alpha.weight": (D_MODEL, steps),
            "ssm_beta.weight": (D_MODEL, steps),
            "ssm_conv1d.weight": (CONV, channels),
            "ssm_dt.bias": (steps,),
            "ssm_norm.weight": (STATE,),
            "ssm_out.weight": (INNER, D_MODEL),
        }
    else:
        mixer = {
            "attn_q.weight": (D_MODEL, 2 * HEADS * HEAD_DIM),
            "attn_k.weight": (D_MODEL, KV_HEADS * HEAD_DIM),
            "attn_v.weight": (D_MODEL, KV_HEADS * HEAD_DIM),
            "attn_q_norm.weight": (HEAD_DIM,),
            "attn_k_norm.weight": (HEAD_DIM,),
            "attn_output.weight": (HEADS * HEAD_DIM, D_MODEL),
        }
    experts = {
        "ffn_gate_exps.weight": (D_MODEL, D_FF, EXPERTS),
        "ffn_up_exps.weight": (D_MODEL, D_FF, EXPERTS),
        "ffn_down_exps.weight": (D_FF, D_MODEL, EXPERTS),
        "ffn_gate_inp.weight": (D_MODEL, EXPERTS),
        "ffn_gate_inp_shexp.weight": (D_MODEL,),
        "ffn_gate_shexp.weight": (D_MODEL, D_FF),
        "ffn_up_shexp.weight": (D_MODEL, D_FF),
        "ffn_down_shexp.weight": (D_FF, D_MODEL),
    }
    norms = {"attn_norm.weight": (D_MODEL,), "post_attention_norm.weight": (D_MODEL,)}
    return {f"blk.{layer}.{name}": shape for name, shape in {**norms, **mixer, **experts}.items()}


def tensor_type(name: str, shape: tuple[int, ...], expert_type: int, rest_type: int = Q6_K) -> int:
    """Return the type llama-quantize would give a tensor, the experts being of one type, other matrices of another."""
    if "_exps" in name:
        return expert_type
    return F32 if len(shape) == 1 or "conv1d" in name or "ffn_gate_inp" in name else rest_type


def random_blocks(kind: int, nbytes: int, rng: np.random.Generator) -> bytes:
    """Return at least `nbytes` of valid data of a type, of small values."""
    if kind == F32:
        return (0.02 * rng.standard_normal(nbytes // 4 + 1)).astype(np.float32).tobytes()
    size = BLOCK_SIZES[kind][1]
    blocks = rng.integers(0, 256, (nbytes // size + 1, size), dtype=np.uint8)
    for at in SCALES[kind]:
        blocks[:, at : at + 2] = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)
    return blocks.tobytes()


def metadata(template: Gguf, layers: int, expert_type: int, whole_vocabulary: bool) -> list[Kv]:
    """Return the template's keys with the sizes of the large model, without those of types of ours.

    A whole vocabulary is as many tokens without a text.
    """
    ours = {f"qwen35moe.{name}": value for name, value in SIZES.items()} | {"qwen35moe.block_count": layers}
    ours["general.file_type"] = FILE_TYPES.get(expert_type, 0)
    kept = [entry for name, entry in template.kv.items() if name not in ours and name not in TYPE_KEYS]
    made = [encode_kv(name, "u32", value) for name, value in ours.items()]
    if whole_vocabulary:
        kept = [entry for entry in kept if not entry.name.startswith("tokenizer.")]
        made += [encode_kv("tokenizer.ggml.model", "str", "none"), encode_kv(VOCABULARY_KEY, "u32", VOCABULARY)]
    made += [encode_kv("qwen35moe.rope.dimension_sections", "[i32]", [11, 11, 10, 0])]
    # without a list of the recurrent layers the engine goes by full_attention_interval
    replaced = ("qwen35moe.rope.dimension_sections", "qwen35moe.attention.recurrent_layers")
    kept = [entry for entry in kept if entry.name not in replaced]
    return kept + made


def nest(shapes: dict[str, tuple[int, ...]], kinds: dict[str, int]) -> list[str]:
    """Make base and plane of each expert tensor, in place; return their names in the order of promotion."""
    groups = [name for name in shapes if "_exps" in name]
    for name in groups:
        plane = variant_name(name, 1, NESTED)
        shapes[plane], kinds[name], kinds[plane] = shapes[name], IQ3_A770, IQ3_A770_R
    return groups


def write_shape_model(
    template: Path,
    layers: int,
    expert_type: int,
    out: Path,
    rest_type: int = Q6_K,
    nested: bool = False,
    whole_vocabulary: bool = False,
) -> None:
    """Write the model; tensors of one type share their random bytes.

    Where it is `nested`, it is a nested twin that loads as variant 1 by itself: experts have planes, and `expert_type`
    only says what base and plane are together, IQ4_A770.

    Raises
    ------
    UserError
        if it is to be nested and experts are not IQ4_A770.
    """
    if nested and expert_type != IQ4_A770:
        raise UserError("a nested model has experts of IQ4_A770")
    nano = Gguf.read(template)
    (vocabulary,) = (tensor.shape[1] for tensor in nano.tensors if tensor.name == "token_embd.weight")
    if whole_vocabulary:
        vocabulary = VOCABULARY
    shapes = {"token_embd.weight": (D_MODEL, vocabulary), "output.weight": (D_MODEL, vocabulary)}
    shapes["output_norm.weight"] = (D_MODEL,)
    for layer in range(layers):
        shapes |= layer_shapes(layer)
    kinds = {name: tensor_type(name, shape, expert_type, rest_type) for name, shape in shapes.items()}
    groups = nest(shapes, kinds) if nested else []
    sizes = {}
    for name, shape in shapes.items():
        block, size = BLOCK_SIZES[kinds[name]]
        sizes[name] = int(np.prod(shape)) // block * size
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        for kind in set(kinds.values()):
            most = max(size for name, size in sizes.items() if kinds[name] == kind)
            Path(folder, str(kind)).write_bytes(random_blocks(kind, most, rng))
        tensors = [
            Tensor(name, shape, kinds[name], Span(Path(folder, str(kinds[name])), 0, sizes[name]))
            for name, shape in shapes.items()
        ]
        kv = metadata(nano, layers, IQ3_A770 if nested else expert_type, whole_vocabulary) + type_kv(kinds.values())
        kv += variant_kv(NESTED, 2, default=1, budget_mb=0, order=groups, tie=None) if nested else []
        write_gguf(out, kv, tensors, force=True)


def main() -> None:
    """Map the command line to write_shape_model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", choices=TYPES, default="IQ3_A770")
    parser.add_argument("--rest", choices=TYPES, default="Q6_K")
    parser.add_argument("--nested", action="store_true", help="experts of IQ4_A770 as base and plane")
    parser.add_argument("--whole-vocabulary", action="store_true", help="248,320 tokens without a text")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    experts, rest = TYPES[arguments.experts], TYPES[arguments.rest]
    kind = {"rest_type": rest, "nested": arguments.nested, "whole_vocabulary": arguments.whole_vocabulary}
    try:
        write_shape_model(arguments.template, arguments.layers, experts, arguments.out, **kind)
    except UserError as error:
        raise SystemExit(f"shape_model: {error}") from None


if __name__ == "__main__":
    main()
