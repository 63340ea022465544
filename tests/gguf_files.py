"""GGUF files for tests, good and broken, written byte by byte: nothing of the code under test is used."""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

F32, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0 = 0, 11, 12, 13, 14, 8
Q2_0 = 42
IQ3_A770, IQ3_A770_R, IQ4_A770 = 770, 771, 772
# weights and bytes of a block
SIZES = gguf.GGML_QUANT_SIZES | {Q2_0: (64, 18), IQ3_A770: (256, 102), IQ3_A770_R: (256, 40), IQ4_A770: (256, 142)}
CODEBOOK = [-125, -73, -36, -4, 21, 49, 82, 127]
TABLES = [
    [-108, -91, -66, -52, -36, -24, -11, -1, 10, 19, 31, 41, 55, 67, 88, 104],
    [-101, -85, -59, -47, -31, -20, -7, 3, 13, 23, 34, 45, 59, 72, 94, 111],
    [-121, -99, -72, -57, -39, -26, -12, -1, 11, 21, 33, 45, 60, 73, 95, 115],
    [-112, -92, -65, -51, -34, -22, -8, 3, 14, 25, 37, 49, 65, 78, 102, 124],
]

TYPES = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64"]
FORMATS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q"}

Key = tuple[str, str, Any]
PLAIN: list[Key] = [("general.architecture", "str", "qwen35moe")]
IQ3_KEYS: list[Key] = [("iq3_a770.version", "u32", 1), ("iq3_a770.codebook", "[i8]", CODEBOOK)]
IQ4_KEYS: list[Key] = [
    *IQ3_KEYS,
    ("iq3_a770_r.version", "u32", 1),
    ("iq3_a770_r.tables", "[i8]", [level for table in TABLES for level in table]),
]


@dataclass(frozen=True)
class Raw:
    """A tensor to write; `data` None leaves a hole, `offset` None puts it where it belongs."""

    name: str
    shape: Sequence[int]
    type: int = F32
    data: bytes | None = None
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        block, size = SIZES[self.type]
        return math.prod(self.shape) // block * size


@dataclass(frozen=True)
class Early(Raw):
    """A tensor of IQ3_A770 under the id that the first twins gave it."""

    type: int = 42

    @property
    def nbytes(self) -> int:
        block, size = SIZES[IQ3_A770]
        return math.prod(self.shape) // block * size


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: str, value: Any) -> bytes:
    """One entry; a bytes `value` of kind "raw" stands for type and value as they are."""
    if kind == "raw":
        return string(name) + value
    if not kind.startswith("["):
        body = string(value) if kind == "str" else struct.pack("<" + FORMATS[kind], value)
        return string(name) + struct.pack("<I", TYPES.index(kind)) + body
    item = kind[1:-1]
    body = b"".join(string(v) if item == "str" else struct.pack("<" + FORMATS[item], v) for v in value)
    return string(name) + struct.pack("<IIQ", TYPES.index("arr"), TYPES.index(item), len(value)) + body


def write(
    path: Path,
    keys: Iterable[Key],
    tensors: Sequence[Raw],
    *,
    version: int = 3,
    alignment: int = 32,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    cut: int = 0,
) -> Path:
    """Write a file; the counts can lie, and `cut` bytes are taken off its end."""
    keys = list(keys)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, n_keys or len(keys))
    head += b"".join(key(*entry) for entry in keys)
    places, at = [], 0
    for tensor in tensors:
        places.append(at)
        offset = at if tensor.offset is None else tensor.offset
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += string(tensor.name) + shape + struct.pack("<IQ", tensor.type, offset)
        if tensor.nbytes < 1 << 50:  # else no file can hold it
            at += -(-tensor.nbytes // alignment) * alignment
    start = -(-len(head) // alignment) * alignment
    with open(path, "wb") as file:
        file.write(head)
        for tensor, place in zip(tensors, places, strict=True):
            if tensor.data is not None:
                assert len(tensor.data) == tensor.nbytes, tensor.name
                file.seek(start + place)
                file.write(tensor.data)
        file.truncate(start + at - cut)
    return path


def noise(name: str, nbytes: int) -> bytes:
    """Bytes that only `name` has."""
    return hashlib.shake_128(name.encode()).digest(nbytes)


def filled(name: str, shape: Sequence[int], kind: int, seed: str = "") -> Raw:
    """A tensor of noise of its own."""
    tensor = Raw(name, shape, kind)
    return Raw(name, shape, kind, noise(f"{name} {kind} {seed}", tensor.nbytes))


def twin_keys(
    order: Sequence[str],
    tie: Sequence[int] | None = None,
    *,
    count: int = 2,
    default: int = 0,
    instead: dict[str, Key | None] | None = None,
) -> list[Key]:
    """The variant keys; those named in `instead` are replaced, or left out where it says None."""
    keys: dict[str, Any] = {
        "version": ("general.tensor_variant.version", "u32", 1),
        "count": ("general.tensor_variant.count", "u32", count),
        "default": ("general.tensor_variant.default", "u32", default),
        "order": ("general.tensor_variant.promote_order", "[str]", order),
    }
    if tie is not None:
        keys["tie"] = ("general.tensor_variant.promote_tie", "[u32]", tie)
    return PLAIN + [entry for entry in (keys | (instead or {})).values() if entry is not None]


def nested_keys(
    order: Sequence[str],
    tie: Sequence[int] | None = None,
    *,
    instead: dict[str, Key | None] | None = None,
    **keys: Any,
) -> list[Key]:
    """The keys of a nested twin, as twin_keys."""
    nested: dict[str, Key | None] = {
        "version": ("general.tensor_variant.version", "u32", 2),
        "kind": ("general.tensor_variant.kind", "str", "nested"),
    }
    return twin_keys(order, tie, instead=nested | (instead or {}), **keys)


def early_twin(path: Path) -> Path:
    """A twin as the first ones were published: type 42, file type 28, and no key that tells a version."""
    name = expert(0, "up")
    low = Early(name, (256, 4), data=noise(name, 4 * 102))
    return write(path, early_keys([name]), [low, filled(f"{name}.v1", (256, 4), Q4_K)])


def early_keys(order: Sequence[str]) -> list[Key]:
    """The keys of the twins that were published first."""
    none = {"version": None, "budget": ("general.tensor_variant.budget_mb", "u32", 0)}
    return [*twin_keys(order, instead=none), ("general.file_type", "u32", 28)]


def expert(layer: int, kind: str) -> str:
    return f"blk.{layer}.ffn_{kind}_exps.weight"


def nano_variants(folder: Path, low: int = IQ3_A770, high: int = Q4_K, layers: int = 2) -> list[Path]:
    """Two plain quantized files of one small model: `down` is stored alike in both for the last layer."""
    paths = []
    for number, kind in enumerate((low, high)):
        tensors = [filled("token_embd.weight", (256, 8), Q6_K), filled("output_norm.weight", (256,), F32)]
        for layer in range(layers):
            tensors.append(filled(f"blk.{layer}.attn_norm.weight", (256,), F32))
            for name in ("gate", "up"):
                tensors.append(filled(expert(layer, name), (256, 3, 4), kind, str(number)))
            same = layer == layers - 1
            tensors.append(
                filled(expert(layer, "down"), (256, 5, 4), Q4_K if same else kind, "" if same else str(number))
            )
        keys = [
            *PLAIN,
            ("general.file_type", "u32", 770 if kind == IQ3_A770 else 15),
            ("x.list", "[str]", ["a", "", "é"]),
        ]
        keys += IQ3_KEYS if kind == IQ3_A770 else []
        keys.append(("quantize.imatrix.file", "str", f"variant {number}"))
        paths.append(write(folder / f"variant{number}.gguf", keys, tensors))
    return paths


def small_twin(path: Path, low: int = Q3_K, high: int = Q8_0, groups: int = 4, **keys: Any) -> Path:
    """A filled twin of `groups` gate tensors; promoting one adds 1.6 MiB: a budget in whole MiB tells them apart."""
    names = [expert(layer, "gate") for layer in range(groups)]
    shape = (256, 64, 160)
    tensors = [filled("token_embd.weight", (256, 64), Q6_K)]
    tensors += [filled(name, shape, low) for name in names]
    tensors += [Raw(f"{name}.v1", shape, high, filled(name, shape, high).data) for name in names]
    extra = keys.pop("extra", [])
    return write(path, twin_keys(names, **keys) + extra + (IQ3_KEYS if IQ3_A770 in (low, high) else []), tensors)


def nested_twin(path: Path, groups: int = 4, shape: Sequence[int] = (256, 64, 160), **keys: Any) -> Path:
    """As small_twin, but nested; promoting one of the first shape adds 0.39 MiB."""
    names = [expert(layer, "gate") for layer in range(groups)]
    tensors = [filled("token_embd.weight", (256, 64), Q6_K)]
    tensors += [filled(name, shape, IQ3_A770) for name in names]
    tensors += [filled(f"{name}.r1", shape, IQ3_A770_R) for name in names]
    extra = keys.pop("extra", [])
    return write(path, nested_keys(names, **keys) + extra + IQ4_KEYS, tensors)


def refined_model(path: Path, layers: int = 2) -> Path:
    """A plain file of IQ4_A770, but for the last layer's `down`: what a nested twin is split from."""
    tensors = [filled("token_embd.weight", (256, 8), Q6_K), filled("output_norm.weight", (256,), F32)]
    for layer in range(layers):
        tensors.append(filled(f"blk.{layer}.attn_norm.weight", (256,), F32))
        tensors += [filled(expert(layer, name), (256, 3, 4), IQ4_A770) for name in ("gate", "up")]
        tensors.append(filled(expert(layer, "down"), (256, 5, 4), Q6_K if layer == layers - 1 else IQ4_A770))
    return write(path, [*PLAIN, ("general.file_type", "u32", 772), ("x.list", "[str]", ["a", "é"]), *IQ4_KEYS], tensors)


def published_twin(path: Path, gate_up: int | type[Raw] = IQ3_A770) -> Path:
    """The head of the published 120-group twin, its data a hole: variant 0 is 15.000 GiB in all.

    With gate and up of the kind Early it is as it was published.
    """
    order = [expert(layer, kind) for kind in ("gate", "up") for layer in range(40)]
    low = dict.fromkeys(order, gate_up)
    down = [expert(layer, "down") for layer in range(40)]
    order += down[:16]
    low |= {name: Q3_K if name in order else Q4_K for name in down}

    def shape(name: str) -> tuple[int, int, int]:
        return (512, 2048, 256) if name in down else (2048, 512, 256)

    experts = [
        Early(name, shape(name)) if kind is Early else Raw(name, shape(name), kind) for name, kind in low.items()
    ]
    rest = 15 * 2**30 - sum(tensor.nbytes for tensor in experts)
    tensors = [Raw("rest.weight", (rest // 4,), F32), *experts]
    tensors += [Raw(f"{name}.v1", shape(name), Q4_K) for name in low]
    return write(path, early_keys(order) if gate_up is Early else twin_keys(order) + IQ3_KEYS, tensors)


# Twins that break the format. Each builder takes the path; the words are what a message must name besides the file.

A, B = expert(0, "gate"), expert(1, "gate")
SHAPE = (256, 4)


def _pair(name: str, other: Sequence[int] = SHAPE) -> list[Raw]:
    return [Raw(name, SHAPE, Q3_K), Raw(f"{name}.v1", other, Q4_K)]


def _bad(tensors: Sequence[Raw], keys: Sequence[Key] | None = None, **layout: Any) -> Callable[[Path], Path]:
    return lambda path: write(path, twin_keys([A, B]) if keys is None else keys, tensors, **layout)


GOOD = [*_pair(A), *_pair(B)]
BAD_TWINS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "shapes differ": (_bad([*_pair(A), *_pair(B, (256, 5))]), (f"{B}.v1",)),
    "shapes of one size differ": (_bad([*_pair(A), *_pair(B, (512, 2))]), (f"{B}.v1",)),
    "no canonical tensor": (_bad([*_pair(A), Raw(f"{B}.v1", SHAPE, Q4_K)]), (f"{B}.v1", B)),
    "more variants than count": (_bad([*GOOD, Raw(f"{A}.v2", SHAPE, Q6_K)]), (f"{A}.v2", "count", "2")),
    "fewer variants than count": (_bad(GOOD, twin_keys([A, B], count=3)), (A, "count", "3")),
    "a group lacks a variant": (
        _bad([*GOOD, Raw(f"{A}.v2", SHAPE, Q6_K)], twin_keys([A, B], count=3)),
        (B, "variant 2"),
    ),
    "a gap in the variants": (
        _bad([Raw(A, SHAPE, Q3_K), Raw(f"{A}.v2", SHAPE, Q6_K)], twin_keys([A], count=3)),
        (A, "variant 1"),
    ),
    "count of no variants": (_bad([Raw(A, SHAPE, Q3_K)]), ("count", "no tensor has variants")),
    "count 1 of no variants": (_bad([Raw(A, SHAPE, Q3_K)], twin_keys([A], count=1)), ("no tensor has variants",)),
    "count 0": (_bad(GOOD, twin_keys([A, B], count=0)), ("count",)),
    "count missing": (_bad(GOOD, twin_keys([A, B], instead={"count": None})), ("count",)),
    "count of the wrong type": (
        _bad(GOOD, twin_keys([A, B], instead={"count": ("general.tensor_variant.count", "str", "2")})),
        ("count", "type"),
    ),
    "version 3": (
        _bad(GOOD, twin_keys([A, B], instead={"version": ("general.tensor_variant.version", "u32", 3)})),
        ("version", "3", "2"),
    ),
    "default beyond the variants": (_bad(GOOD, twin_keys([A, B], default=2)), ("default", "2")),
    "ties shorter than the order": (_bad(GOOD, twin_keys([A, B], [1])), ("promote_tie", "1", "2")),
    "ties without an order": (_bad(GOOD, twin_keys([], [1, 2], instead={"order": None})), ("promote_tie", "2", "0")),
    "order of the wrong type": (
        _bad(GOOD, twin_keys([], instead={"order": ("general.tensor_variant.promote_order", "[u32]", [1])})),
        ("promote_order", "type"),
    ),
    ".v0": (_bad([*GOOD, Raw(f"{A}.v0", SHAPE, Q4_K)]), (f"{A}.v0",)),
    ".v01": (_bad([*_pair(A), Raw(B, SHAPE, Q3_K), Raw(f"{B}.v01", SHAPE, Q4_K)]), (f"{B}.v01",)),
    "variant of a variant": (_bad([*GOOD, Raw(f"{A}.v1.v1", SHAPE, Q4_K)]), (f"{A}.v1.v1",)),
    "enormous variant number": (_bad([*GOOD, Raw(f"{A}.v99999999999", SHAPE, Q4_K)]), (f"{A}.v99999999999",)),
    "tensor twice": (_bad([*GOOD, Raw(A, SHAPE, Q3_K)]), (A,)),
    "variant twice": (_bad([*GOOD, Raw(f"{A}.v1", SHAPE, Q4_K)]), (f"{A}.v1",)),
    "key twice": (_bad(GOOD, [*twin_keys([A, B]), PLAIN[0]]), ("general.architecture",)),
    "data past the end": (_bad(GOOD, cut=100), (f"{B}.v1",)),
    "offset past the end": (_bad([*GOOD[:3], Raw(f"{B}.v1", SHAPE, Q4_K, offset=1 << 40)]), (f"{B}.v1",)),
    "offset misaligned": (_bad([*GOOD[:3], Raw(f"{B}.v1", SHAPE, Q4_K, offset=1)]), (f"{B}.v1",)),
    "offsets overlap": (_bad([*GOOD[:3], Raw(f"{B}.v1", SHAPE, Q4_K, offset=0)]), (f"{B}.v1",)),
    "size overflows": (_bad([*GOOD[:3], Raw(f"{B}.v1", (1 << 40, 1 << 40), F32)]), (f"{B}.v1",)),
}

IQ3_PAIR = [Raw(A, SHAPE, IQ3_A770), Raw(f"{A}.v1", SHAPE, Q4_K)]
BAD_IQ3_A770: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "version 2": (
        _bad(IQ3_PAIR, [*twin_keys([A]), ("iq3_a770.version", "u32", 2), IQ3_KEYS[1]]),
        ("iq3_a770.version", "2", "1"),
    ),
    "another codebook": (
        _bad(IQ3_PAIR, [*twin_keys([A]), IQ3_KEYS[0], ("iq3_a770.codebook", "[i8]", [-126, *CODEBOOK[1:]])]),
        ("iq3_a770.codebook", "-126", "-125"),
    ),
    "a codebook of seven": (
        _bad(IQ3_PAIR, [*twin_keys([A]), IQ3_KEYS[0], ("iq3_a770.codebook", "[i8]", CODEBOOK[:7])]),
        ("iq3_a770.codebook",),
    ),
    "a version of the wrong type": (
        _bad(IQ3_PAIR, [*twin_keys([A]), ("iq3_a770.version", "str", "1"), IQ3_KEYS[1]]),
        ("iq3_a770.version", "str", "u32"),
    ),
}

NESTED = [Raw(A, SHAPE, IQ3_A770), Raw(f"{A}.r1", SHAPE, IQ3_A770_R)]
KIND = "general.tensor_variant.kind"


def _nested(tensors: Sequence[Raw], **keys: Any) -> Callable[[Path], Path]:
    return _bad(tensors, nested_keys([A, B], **keys) + IQ4_KEYS)


def _without(name: str) -> list[Key]:
    return nested_keys([A]) + [entry for entry in IQ4_KEYS if entry[0] != name]


BAD_NESTED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "a plane without its base": (_nested([*NESTED, Raw(f"{B}.r1", SHAPE, IQ3_A770_R)]), (f"{B}.r1", B)),
    "a plane of another shape": (
        _nested([*NESTED, Raw(B, SHAPE, IQ3_A770), Raw(f"{B}.r1", (256, 5), IQ3_A770_R)]),
        (f"{B}.r1", "shape"),
    ),
    "a plane beside a whole sibling": (_nested([*NESTED, Raw(f"{A}.v1", SHAPE, Q4_K)]), (f"{A}.v1",)),
    "a whole sibling": (_nested([*NESTED, Raw(B, SHAPE, IQ3_A770), Raw(f"{B}.v1", SHAPE, Q4_K)]), (f"{B}.v1",)),
    "a plane in a twin of siblings": (_bad([*GOOD, *NESTED[1:]], twin_keys([A, B]) + IQ4_KEYS), (f"{A}.r1",)),
    "a base of another type": (_nested([Raw(A, SHAPE, Q4_K), NESTED[1]]), (A, "Q4_K", "IQ3_A770")),
    "a plane of another type": (_nested([NESTED[0], Raw(f"{A}.r1", SHAPE, Q4_K)]), (f"{A}.r1", "Q4_K", "IQ3_A770_R")),
    "a plane that is not named so": (_nested([*NESTED, Raw(B, SHAPE, IQ3_A770_R)]), (B, "IQ3_A770_R")),
    "a second plane": (_nested([*NESTED, Raw(f"{A}.r2", SHAPE, IQ3_A770_R)]), (f"{A}.r2",)),
    ".r0": (_nested([*NESTED, Raw(f"{A}.r0", SHAPE, IQ3_A770_R)]), (f"{A}.r0",)),
    ".r01": (_nested([*NESTED, Raw(B, SHAPE, IQ3_A770), Raw(f"{B}.r01", SHAPE, IQ3_A770_R)]), (f"{B}.r01",)),
    "no plane": (_nested(NESTED[:1]), ("count", "no tensor has variants")),
    "count 3": (_nested(NESTED, count=3), ("count", "3", "2")),
    "version 3 with a kind": (
        _nested(NESTED, instead={"version": ("general.tensor_variant.version", "u32", 3)}),
        ("general.tensor_variant.version", "3", "2"),
    ),
    "version 1": (
        _nested(NESTED, instead={"version": ("general.tensor_variant.version", "u32", 1)}),
        (KIND, "version 1", "nested"),
    ),
    "no kind": (_nested(NESTED, instead={"kind": None}), (KIND, "2")),
    "an unknown kind": (_nested(NESTED, instead={"kind": (KIND, "str", "cousins")}), (KIND, "cousins")),
    "a kind of the wrong type": (_nested(NESTED, instead={"kind": (KIND, "u32", 1)}), (KIND, "type")),
    "no version of the plane": (_bad(NESTED, _without("iq3_a770_r.version")), ("iq3_a770_r.version",)),
    "no tables": (_bad(NESTED, _without("iq3_a770_r.tables")), ("iq3_a770_r.tables",)),
    "no codebook": (_bad(NESTED, _without("iq3_a770.codebook")), ("iq3_a770.codebook",)),
    "another version of the plane": (
        _bad(NESTED, [*_without("iq3_a770_r.version"), ("iq3_a770_r.version", "u32", 2)]),
        ("iq3_a770_r.version", "2", "1"),
    ),
    "other tables": (
        _bad(NESTED, [*_without("iq3_a770_r.tables"), ("iq3_a770_r.tables", "[i8]", [-107, *IQ4_KEYS[3][2][1:]])]),
        ("iq3_a770_r.tables", "-107", "-108"),
    ),
    "tables of the wrong type": (
        _bad(NESTED, [*_without("iq3_a770_r.tables"), ("iq3_a770_r.tables", "[u32]", [1])]),
        ("iq3_a770_r.tables", "type"),
    ),
}
# no case of one may hide one of the other
assert not BAD_TWINS.keys() & BAD_NESTED.keys()
BAD_OF_EITHER_KIND = BAD_TWINS | BAD_NESTED

BAD_RANKS = [
    "4",
    "0-4",
    "3-1",
    "a",
    "1,,2",
    ",",
    "1,",
    ",1",
    " 1",
    "1 ",
    "1, 2",
    "-1",
    "1-",
    "0x1",
    "1-2-3",
    "9" * 100,
    "\uff11",
]


# Nex-N2-mini, as metadata
MINI = {
    "block_count": 40,
    "context_length": 262144,
    "embedding_length": 2048,
    "attention.head_count": 16,
    "attention.head_count_kv": 2,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "expert_count": 256,
    "expert_used_count": 8,
    "expert_feed_forward_length": 512,
    "expert_shared_feed_forward_length": 512,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.group_count": 16,
    "ssm.time_step_rank": 32,
    "ssm.inner_size": 4096,
    "full_attention_interval": 4,
    "rope.dimension_count": 64,
    "nextn_predict_layers": 0,
    "vocab_size": 248320,
}


def nex_n2_mini(path: Path, *, twin: bool = False, nested: bool = False, without: str | None = None) -> Path:
    """The shapes of Nex-N2-mini in a file of holes: all experts IQ3_A770, in the twin's variant 1 Q4_K, rest Q6_K.

    The nested one has planes in place of variant 1. There is no tokenizer, so the engine allocates everything and then
    stops. `without` leaves out a key.
    """
    keys = [("general.architecture", "str", "qwen35moe"), ("tokenizer.ggml.model", "str", "no_vocab")]
    keys += [(f"qwen35moe.{name}", "u32", value) for name, value in MINI.items() if name != without]
    keys += [
        ("qwen35moe.rope.dimension_sections", "[i32]", [11, 11, 10, 0]),
        ("qwen35moe.rope.freq_base", "f32", 1e7),
        ("qwen35moe.attention.layer_norm_rms_epsilon", "f32", 1e-6),
    ]
    embedding = (2048, 248320)
    tensors = [Raw("output.weight", embedding, Q6_K), Raw("output_norm.weight", (2048,))]
    tensors.append(Raw("token_embd.weight", embedding, Q6_K))
    for layer in range(40):
        f32 = {"attn_norm.weight": (2048,), "post_attention_norm.weight": (2048,), "ffn_gate_inp.weight": (2048, 256)}
        f32["ffn_gate_inp_shexp.weight"] = (2048,)
        q6 = {"ffn_gate_shexp": (2048, 512), "ffn_up_shexp": (2048, 512), "ffn_down_shexp": (512, 2048)}
        if layer % 4 == 3:
            f32 |= {"attn_q_norm.weight": (256,), "attn_k_norm.weight": (256,)}
            q6 |= {"attn_q": (2048, 8192), "attn_k": (2048, 512), "attn_v": (2048, 512), "attn_output": (4096, 2048)}
        else:
            f32 |= {"ssm_conv1d.weight": (4, 8192), "ssm_dt.bias": (32,), "ssm_a": (32,), "ssm_norm.weight": (128,)}
            q6 |= {"attn_qkv": (2048, 8192), "attn_gate": (2048, 4096), "ssm_out": (4096, 2048)}
            q6 |= {"ssm_beta": (2048, 32), "ssm_alpha": (2048, 32)}
        tensors += [Raw(f"blk.{layer}.{name}", shape, F32) for name, shape in f32.items()]
        tensors += [Raw(f"blk.{layer}.{name}.weight", shape, Q6_K) for name, shape in q6.items()]
    names = [expert(layer, kind) for layer in range(40) for kind in ("down", "gate", "up")]
    shapes = {name: (512, 2048, 256) if "down" in name else (2048, 512, 256) for name in names}
    tensors += [Raw(name, shapes[name], IQ3_A770) for name in names]
    if twin:
        tensors += [Raw(f"{name}.v1", shapes[name], Q4_K) for name in names]
        keys += [entry for entry in twin_keys(names) if entry not in PLAIN]
    if nested:
        tensors += [Raw(f"{name}.r1", shapes[name], IQ3_A770_R) for name in names]
        keys += [entry for entry in nested_keys(names) if entry not in PLAIN]
    return write(path, keys + (IQ4_KEYS if nested else IQ3_KEYS), tensors)
