"""The size of the engine's compute buffer: its graph, as shapes only, put through its allocator.

What dominates depends on the model and the settings, and the allocator fragments, so sums of tensors are off by up to a
third. Here the tensors of one batch are listed as the engine's graph lists them (qwen35moe.cpp, delta-net-base.cpp and
llama-graph.cpp) and placed as ggml-alloc.c places them (allocation.py). It takes milliseconds.

In order of weight: the logits, [n_vocab, n_ubatch] in f32; without flash attention the scores, [n_kv, n_ubatch, n_head]
in f32; the mask, [n_kv, n_ubatch] in f16 with flash attention and f32 without, four times over with several cards; the
experts' outputs, [n_embd, n_used, n_ubatch]; and the convolution of the delta-net layers with its input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .allocation import Graph, Tensor

F32, F16, I32, I64 = 4, 2, 4, 8


@dataclass(frozen=True)
class Shape:
    """What the graph of a model depends on; numbers of elements."""

    n_embd: int
    n_vocab: int
    n_head: int
    n_head_kv: int
    head_k: int
    head_v: int
    gated_attention: bool  # the query carries a gate of the same size
    n_expert: int  # 0: a dense feed-forward of n_ff
    n_used: int
    n_ff: int
    n_ff_shared: int  # 0: no shared expert
    conv_kernel: int  # of the delta-net layers; 0: there are none
    ssm_inner: int
    ssm_state: int
    ssm_groups: int
    ssm_heads: int

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution in front of a delta-net layer."""
        return self.ssm_inner + 2 * self.ssm_groups * self.ssm_state

    @property
    def n_conv_state(self) -> int:
        """Elements of one sequence's convolution state in one layer: llama_hparams::n_embd_r."""
        return (self.conv_kernel - 1) * self.conv_channels

    @property
    def n_ssm_state(self) -> int:
        """Elements of one sequence's delta-net state in one layer: llama_hparams::n_embd_s."""
        return self.ssm_state * self.ssm_inner


@dataclass(frozen=True)
class Batch:
    """The largest batch that the engine reserves for."""

    n_tokens: int  # n_ubatch, rounded up to a multiple of n_seqs
    n_seqs: int
    n_kv: int  # cells per sequence
    flash: bool
    v_cell: int  # bytes of V per cell that are copied: where flash attention was meant to be and is not; else 0
    rotate_k: bool  # a quantized cache is stored rotated (llama-kv-cache.cpp, attn_rot)
    rotate_v: bool


class _Builder:
    """The graph of a range of layers."""

    def __init__(self, shape: Shape, batch: Batch, kinds: Sequence[bool], copies: int, host: bool) -> None:
        self.s, self.b, self.g, self.n = shape, batch, Graph(), batch.n_tokens
        self.copies = copies
        n = self.n
        if host:  # both forms of the input are there, tokens and embeddings
            tokens, _ = self.input(I32 * n), self.input(F32 * shape.n_embd * n)
            self.x = self.g.op((shape.n_embd, n), tokens)
        else:
            self.x = self.input(F32 * shape.n_embd * n, (shape.n_embd, n))
        if not all(kinds):
            states = self.input(I32 * batch.n_seqs)
            self.main, self.extra = self.g.view(states), self.g.view(states)
        if any(kinds):
            self.positions = self.input(I32 * 4 * n)
            self.k_index = self.input(I64 * n)
            # without flash attention V is stored transposed, element by element
            rows = batch.flash or batch.v_cell
            self.v_index = self.input(I64 * n * (1 if rows else shape.head_v * shape.n_head_kv))
            self.mask = self.input((F16 if batch.flash else F32) * batch.n_kv * n)
            # the rotation for K is as large as divides the head, for V of 64
            self.k_rotation = self.input(F32 * _rotation(shape.head_k) ** 2) if batch.rotate_k else None
            self.v_rotation = self.input(F32 * 64 * 64) if batch.rotate_v else None
        if host:
            self.g.expand(self.x)

    def input(self, nbytes: int, shape: tuple = ()) -> Tensor:
        """An input; with several cards each has as many copies as batches are under way, and keeps them."""
        tensor = self.g.input(nbytes, shape)
        if self.copies > 1:
            tensor.output = True
            for _ in range(self.copies - 1):
                self.g.input(nbytes)
        return tensor

    def norm(self, x: Tensor) -> Tensor:
        return self.g.unary(self.g.unary(x))

    def layer(self, attention: bool) -> None:
        s, g, before = self.s, self.g, self.x
        cur = self.norm(before)
        g.expand(cur)
        cur = self.attention(cur) if attention else self.delta_net(cur)
        residual = g.unary(cur, before)
        cur = self.experts(self.norm(residual)) if s.n_expert else self.feed_forward(self.norm(residual), s.n_ff)
        self.x = g.unary(cur, residual)

    def attention(self, cur: Tensor) -> Tensor:
        s, g, n, b = self.s, self.g, self.n, self.b
        heads = (s.head_k, s.n_head, n)
        gate = None
        if s.gated_attention:
            both = g.op((2 * s.head_k * s.n_head, n), cur)
            q = g.op(heads, g.view(both))
            gate = g.op((s.head_v * s.n_head, n), g.view(both))
        else:
            q = g.unary(g.view(g.op((s.head_k * s.n_head, n), cur), heads))
        q = g.unary(g.unary(q), self.positions)
        k = g.view(g.op((s.head_k * s.n_head_kv, n), cur), (s.head_k, s.n_head_kv, n))
        k = g.unary(self.norm(k), self.positions)
        v = g.view(g.op((s.head_v * s.n_head_kv, n), cur), (s.head_v, s.n_head_kv, n))
        if self.k_rotation:
            q, k = (g.view(g.op(x.shape, self.k_rotation, g.view(x)), x.shape) for x in (q, k))
        if self.v_rotation:
            v = g.view(g.op(v.shape, self.v_rotation, g.view(v)), v.shape)
        for x in (q, v, k):
            g.expand(x)
        g.store(g.view(k), self.k_index)
        g.store(g.view(v), self.v_index)
        q = g.view(g.view(q))
        flat = (s.head_v * s.n_head, n)
        if b.flash:
            cur = g.view(g.op((s.head_v, s.n_head, n), q, self.mask), flat)
        else:
            scores = g.unary(g.op((b.n_kv, n, s.n_head), q), self.mask)
            # of the cache, which is no part of the graph; the mask stands for it as something that is there anyway
            copied = [g.op((b.v_cell, b.n_kv), self.mask, size=1)] if b.v_cell else []
            cur = g.op(flat, g.view(g.op((s.head_v, n, s.n_head), *copied, scores)))
        g.expand(cur)
        if self.v_rotation:
            cur = g.view(g.op(flat, self.v_rotation, g.view(cur)), flat)
        if gate:
            cur = g.unary(cur, g.unary(gate))
        return g.op((s.n_embd, n), cur)

    def delta_net(self, cur: Tensor) -> Tensor:
        s, g, n, seqs = self.s, self.g, self.n, self.b.n_seqs
        channels, keys = s.conv_channels, (s.ssm_state, s.ssm_groups, n)
        heads = (s.ssm_inner // s.ssm_heads, s.ssm_heads, n)
        qkv = g.view(g.op((channels, n), cur))
        z = g.op((s.ssm_inner, n), cur)
        beta = g.unary(g.view(g.op((s.ssm_heads, n), cur), (1, s.ssm_heads, n)))
        alpha = g.view(g.op((s.ssm_heads, n), cur), (s.ssm_heads, n))
        decay = g.view(g.unary(g.unary(g.unary(alpha))))
        rows = self.state(s.n_conv_state)
        conv = g.op((s.conv_kernel - 1 + n // seqs, channels, seqs), g.view(rows), g.view(qkv))
        g.store(g.view(conv))
        state = self.state(s.n_ssm_state)
        mixed = g.unary(g.op((channels, n), conv))
        q, k = (g.op(keys, g.view(mixed)) for _ in range(2))
        # the output and the new state in one
        result = g.op(
            (s.ssm_inner * n + s.n_ssm_state * seqs,), q, k, g.view(mixed), decay, beta, g.view(g.view(state))
        )
        output = g.view(result, heads, F32 * s.ssm_inner * n)
        g.store(g.view(result))
        cur = g.unary(self.norm(output), g.unary(g.view(z, heads)))
        return g.view(g.op((s.n_embd, n), g.view(cur)), (s.n_embd, n))

    def state(self, size: int) -> Tensor:
        """build_rs: the states of this batch's sequences, and of those that have none in it."""
        rows = self.g.op((size, self.b.n_seqs), self.main)
        self.g.expand(rows)
        self.g.store(self.g.op((size, 0), self.extra))
        return rows

    def experts(self, cur: Tensor) -> Tensor:
        s, g, n = self.s, self.g, self.n
        probs = g.unary(g.op((s.n_expert, n), cur))
        chosen = g.view(g.op((s.n_expert, n), probs, size=I32))
        weights = g.view(g.op((1, s.n_used, n), g.view(probs), chosen), (s.n_used, n))
        weights = g.view(g.unary(weights, g.view(g.op((1, n), weights))))
        g.expand(weights)
        tokens = g.view(cur)
        up, gate = (g.op((s.n_ff, s.n_used, n), tokens, chosen) for _ in range(2))
        inner = g.op((s.n_ff, s.n_used, n), gate, up)
        out = g.unary(g.op((s.n_embd, s.n_used, n), inner, chosen), weights)
        g.expand(out)
        parts = [g.view(out) for _ in range(s.n_used)]
        for part in parts:
            g.expand(part)
        total = parts[0] if len(parts) > 1 else g.op((s.n_embd, n), parts[0])
        for i, part in enumerate(parts[1:]):
            total = g.unary(total, part) if i else g.op((s.n_embd, n), total, part)
            g.expand(total)
        if s.n_ff_shared:
            shared = self.feed_forward(cur, s.n_ff_shared)
            total = g.unary(total, g.unary(shared, g.unary(g.op((1, n), cur))))
        return total

    def feed_forward(self, cur: Tensor, n_ff: int) -> Tensor:
        up, gate = (self.g.op((n_ff, self.n), cur) for _ in range(2))
        return self.g.op((self.s.n_embd, self.n), self.g.op((n_ff, self.n), gate, up))

    def head(self) -> None:
        s, g, n = self.s, self.g, self.n
        hidden = self.norm(self.x)
        embedding = g.op((s.n_embd, n), hidden, self.input(I32 * n))
        logits = g.op((s.n_vocab, n), embedding)
        for tensor in (hidden, embedding, logits):
            tensor.output = True
        self.x = logits


def _rotation(head: int) -> int:
    size = 64
    while head % (2 * size) == 0:
        size *= 2
    return size


@cache
def compute_bytes(
    shape: Shape, batch: Batch, attention: tuple[bool, ...], output: bool = True, copies: int = 1, host: bool = False
) -> int:
    """Bytes of the compute buffer of the device that holds a range of layers.

    Parameters
    ----------
    attention
        per layer of the range, whether it is a full-attention layer (else a delta-net one).
    output
        whether the device has the output layer too.
    copies
        of the inputs: 4 (GGML_SCHED_MAX_COPIES) with several cards, which work on several batches at once, else 1.
    host
        whether the device is the CPU, which looks up the embeddings itself.
    """
    builder = _Builder(shape, batch, attention, copies, host)
    for kind in attention:
        builder.layer(kind)
    if output:
        builder.head()
    builder.g.expand(builder.x)
    return builder.g.peak()
