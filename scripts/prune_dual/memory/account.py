"""What a card holds besides weights, from the model's own metadata: caches, recurrent state, compute buffers.

The formulas are those of the engine's sources, named at each; docs/memory.md has the comparison with its logs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gguf import GGMLQuantizationType

from ..container.entries import Tensor
from ..container.reader import Gguf
from ..container.tensor_types import BLOCK_SIZES, tensor_nbytes
from ..errors import GgufError
from .allocation import ALIGNMENT
from .graph import F32, Batch, Shape, compute_bytes

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
COPIES = 4  # GGML_SCHED_MAX_COPIES: batches under way at once on several cards
ROW_PADDING = 512  # elements; MATRIX_ROW_PADDING of SYCL and CUDA: rows of quantized weights are filled up to that


@dataclass(frozen=True)
class Settings:
    """How the engine will be started; the names are its options.

    `flash_attn` None counts the larger of with and without, for the engine decides by itself (-fa auto).
    """

    ctx: int = 8192
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    ubatch: int = 512
    parallel: int = 1
    flash_attn: bool | None = None

    def __post_init__(self) -> None:
        for name in ("ctx", "ubatch", "parallel"):
            if getattr(self, name) < 1:
                raise GgufError(f"--{name} is {getattr(self, name)}, must be 1 or more")
        for end in "kv":
            kind = getattr(self, f"cache_type_{end}")
            if kind not in CACHE_TYPES:
                raise GgufError(f"--cache-type-{end} is {kind!r}, can be {', '.join(CACHE_TYPES)}")
        if self.flash_attn is False and _is_quantized(self.cache_type_v):
            raise GgufError(f"--cache-type-v {self.cache_type_v} needs flash attention, the engine refuses it without")

    @property
    def cells(self) -> int:
        """Cells of one sequence's KV cache: llama_context rounds both the whole and the part up to 256."""
        return _up(_up(self.ctx, 256) // self.parallel, 256)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _type_id(name: str) -> int:
    return int(GGMLQuantizationType[name.upper()])


def _is_quantized(name: str) -> bool:
    return BLOCK_SIZES[_type_id(name)][0] > 1


@dataclass(frozen=True)
class Model:
    """A model's layers as the account needs them.

    `attention` says per layer whether it is a full-attention one (else a gated delta-net one). Prediction layers
    behind them (nextn) hold weights only.
    """

    shape: Shape
    attention: tuple[bool, ...]
    n_blocks: int  # with prediction layers

    @classmethod
    def of(cls, gguf: Gguf) -> "Model":
        """Read the metadata; raises GgufError naming the first key that is missing or not understood."""
        arch = gguf.get("general.architecture", "str")
        if arch is None:
            raise GgufError(f"{gguf.path}: key 'general.architecture' is missing, memory cannot be counted")
        if f"{arch}.attention.kv_lora_rank" in gguf.kv:
            raise GgufError(f"{gguf.path}: key '{arch}.attention.kv_lora_rank': latent attention is not counted yet")

        def number(name: str, default: int | None = None) -> int:
            key = f"{arch}.{name}"
            if key not in gguf.kv:
                if default is None:
                    raise GgufError(f"{gguf.path}: key {key!r} is missing, memory cannot be counted without it")
                return default
            value: Any = gguf.value(key)
            values = set(value) if isinstance(value, list) else {value}
            if len(values) != 1 or not isinstance(value := values.pop(), int) or not 0 <= value < 1 << 31:
                raise GgufError(f"{gguf.path}: key {key!r} is not one whole number, memory cannot be counted")
            return value

        tensors = {tensor.name: tensor for tensor in gguf.tensors}
        if "token_embd.weight" not in tensors:
            raise GgufError(f"{gguf.path}: tensor 'token_embd.weight' is missing, memory cannot be counted")
        n_blocks = number("block_count")
        n_embd, n_head = number("embedding_length"), number("attention.head_count")
        head_k = number("attention.key_length", n_embd // max(1, n_head))
        n_expert, linear = number("expert_count", 0), f"{arch}.ssm.conv_kernel" in gguf.kv
        attention = _attention(gguf, arch, n_blocks - number("nextn_predict_layers", 0), linear, number)
        queries = {
            tensors[name].shape[1]
            for il, full in enumerate(attention)
            if full and (name := f"blk.{il}.attn_q.weight") in tensors
        }
        shape = Shape(
            n_embd=n_embd,
            n_vocab=tensors.get("output.weight", tensors["token_embd.weight"]).shape[1],
            n_head=n_head,
            n_head_kv=number("attention.head_count_kv", n_head),
            head_k=head_k,
            head_v=number("attention.value_length", head_k),
            gated_attention=queries == {2 * head_k * n_head},
            n_expert=n_expert,
            n_used=number("expert_used_count") if n_expert else 0,
            n_ff=number("expert_feed_forward_length" if n_expert else "feed_forward_length"),
            n_ff_shared=number("expert_shared_feed_forward_length", 0),
            conv_kernel=number("ssm.conv_kernel", 0),
            ssm_inner=number("ssm.inner_size") if linear else 0,
            ssm_state=number("ssm.state_size") if linear else 0,
            ssm_groups=number("ssm.group_count") if linear else 0,
            ssm_heads=number("ssm.time_step_rank") if linear else 0,
        )
        return cls(shape, attention, n_blocks)


def _attention(gguf: Gguf, arch: str, n_layers: int, linear: bool, number: Any) -> tuple[bool, ...]:
    """Which layers are full attention: load_arch_hparams of qwen35moe.cpp."""
    if not linear:
        return (True,) * n_layers
    key = f"{arch}.attention.recurrent_layers"
    if key in gguf.kv:
        recurrent = gguf.value(key)
        if not isinstance(recurrent, list) or len(recurrent) < n_layers:
            raise GgufError(f"{gguf.path}: key {key!r} should have an entry for each of {n_layers} layers")
        return tuple(not entry for entry in recurrent[:n_layers])
    interval = number("full_attention_interval")
    if not interval:
        raise GgufError(f"{gguf.path}: key '{arch}.full_attention_interval' is 0")
    return tuple((il + 1) % interval == 0 for il in range(n_layers))


@dataclass(frozen=True)
class Memory:
    """What layers and devices hold besides weights; all sizes are in bytes."""

    model: Model
    settings: Settings

    @cached_property
    def kv_layer(self) -> int:
        """KV cache of one full-attention layer: the tensors of the constructor of llama_kv_cache."""
        s, shape = self.settings, self.model.shape
        size = 0
        for end, head in (("k", shape.head_k), ("v", shape.head_v)):
            kind = getattr(s, f"cache_type_{end}")
            try:
                size += tensor_nbytes((head * shape.n_head_kv, s.cells, s.parallel), _type_id(kind))
            except ValueError as error:
                raise GgufError(f"--cache-type-{end} {kind}: {error}") from None
        return size

    @cached_property
    def rs_layer(self) -> int:
        """State of one delta-net layer, all sequences: convolution and delta net, f32 (llama-memory-recurrent.cpp)."""
        shape = self.model.shape
        return F32 * (shape.n_conv_state + shape.n_ssm_state) * self.settings.parallel

    def kv(self, first: int, last: int) -> int:
        """KV cache of layers first..last-1."""
        return self.kv_layer * sum(self.model.attention[first:last])

    def rs(self, first: int, last: int) -> int:
        """Recurrent state of layers first..last-1."""
        layers = self.model.attention[first:last]
        return self.rs_layer * (len(layers) - sum(layers))

    def compute(self, first: int, last: int, *, cards: int = 1, host: bool = False) -> int:
        """Compute buffer of the device that holds layers first..last-1, where n_blocks counts as the output layer.

        Checked for the CPU and for one and two devices: see docs/memory.md.
        """
        if self.settings.flash_attn is None:
            ways = [True] if _is_quantized(self.settings.cache_type_v) else [True, False]
        else:
            ways = [self.settings.flash_attn]
        layers, output = self.model.attention[first:last], first <= self.model.n_blocks < last
        if not layers and not output:
            return 0
        copies = COPIES if cards > 1 else 1
        batches = (self._batch(flash) for flash in ways)
        return max(compute_bytes(self.model.shape, batch, layers, output, copies, host) for batch in batches)

    def _batch(self, flash: bool) -> Batch:
        s, shape = self.settings, self.model.shape
        # a context is never smaller than its batch, and sequences share it evenly
        n_tokens = _up(min(s.cells * s.parallel, s.ubatch), s.parallel)
        # llama-kv-cache.cpp, attn_rot_k and attn_rot_v
        rotate_k = _is_quantized(s.cache_type_k) and shape.head_k % 64 == 0
        rotate_v = _is_quantized(s.cache_type_v) and shape.head_v % 64 == 0
        # -fa auto lays V out for flash attention before it is known that a backend lacks it
        v_row = tensor_nbytes((shape.head_v * shape.n_head_kv,), _type_id(s.cache_type_v))
        v_cell = v_row if s.flash_attn is None and not flash else 0
        return Batch(n_tokens, s.parallel, s.cells, flash, v_cell, rotate_k, rotate_v)


@dataclass(frozen=True)
class Weights:
    """Where the bytes of a model's tensors go: `layers` per block, `output` with the last, `host` on no card."""

    layers: tuple[int, ...]
    output: int
    host: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], n_blocks: int) -> "Weights":
        """Add up tensors as cards hold them.

        The input embeddings stay in host memory whatever -ngl says (llama-model.cpp, dev_input), unless there is no
        output matrix: then they serve as that too, and the output's card has a second copy.
        """
        layers, output, host = [0] * n_blocks, 0, 0
        tied = not any(tensor.name == "output.weight" for tensor in tensors)
        for tensor in tensors:
            block = re.match(r"blk\.([0-9]+)\.", tensor.name, re.ASCII)
            if block and int(block[1]) < n_blocks:
                layers[int(block[1])] += _on_card(tensor)
            elif tensor.name == "token_embd.weight":
                host += tensor.nbytes
                output += _on_card(tensor) if tied else 0
            else:
                output += _on_card(tensor)
        return cls(tuple(layers), output, host)

    def on_cards(self, first: int, last: int) -> int:
        """Bytes of layers first..last-1, where the number of blocks counts as the output layer."""
        return sum(self.layers[first:last]) + (self.output if first <= len(self.layers) < last else 0)


def _on_card(tensor: Tensor) -> int:
    """Bytes in a buffer of SYCL or CUDA: the last row is filled up, and the whole aligned. Vulkan fills nothing."""
    block, size = BLOCK_SIZES[tensor.type]
    filled = (-tensor.shape[0] % ROW_PADDING) // block * size if block > 1 else 0
    return _up(tensor.nbytes + filled, ALIGNMENT)
