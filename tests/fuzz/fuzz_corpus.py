"""The fuzz corpus: good files to mutate, and hostile ones that a reader must refuse.

None of these ends stock llama.cpp: what did, mutations come upon.

usage: fuzz_corpus.py   writes tests/fuzz/corpus anew; a test fails when that differs from what stands here
(with PYTHONPATH=scripts:tests).
"""

import random
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf_files import (
    BAD_NESTED,
    F32,
    IQ3_A770,
    IQ3_A770_R,
    IQ3_KEYS,
    IQ4_A770,
    IQ4_KEYS,
    PLAIN,
    Q2_0,
    Q3_K,
    Q4_K,
    Q6_K,
    TYPES,
    Key,
    Raw,
    early_twin,
    filled,
    key,
    nested_keys,
    string,
    twin_keys,
    write,
)

CORPUS = Path(__file__).parent / "corpus"
ROW = (256,)
A, B = "blk.0.up", "blk.0.gate"  # short names: more of the file is structure
U32, U64 = 1 << 32, 1 << 64

PAIR = [filled(A, ROW, IQ3_A770), filled(f"{A}.v1", ROW, Q4_K)]
TWIN = [*PAIR, filled(B, ROW, Q3_K), filled(f"{B}.v1", ROW, Q4_K), filled("x", (2,), F32)]

NESTED = [filled(name + end, ROW, kind) for end, kind in (("", IQ3_A770), (".r1", IQ3_A770_R)) for name in (A, B)]

Build = Callable[[Path], Any]


def _file(keys: Sequence[Key], tensors: Sequence[Raw], **layout: Any) -> Build:
    return lambda path: write(path, keys, tensors, **layout)


def _raw(kind: str, body: bytes) -> tuple[str, bytes]:
    """A key's kind and value for gguf_files.key(): an array if `kind` is in brackets."""
    if kind.startswith("["):
        return "raw", struct.pack("<II", TYPES.index("arr"), TYPES.index(kind[1:-1])) + body
    return "raw", struct.pack("<I", TYPES.index(kind)) + body


def _array(item: int, count: int, body: bytes = b"") -> tuple[str, bytes]:
    return "raw", struct.pack("<IIQ", TYPES.index("arr"), item, count) + body


def _tensor(
    name: bytes = b"t",
    shape: Sequence[int] = (4,),
    kind: int = F32,
    offset: int = 0,
    n_dims: int | None = None,
    keys: Sequence[Key] = PLAIN,
) -> Build:
    """A file of one tensor whose entry is written as told, followed by 64 bytes of data."""

    def build(path: Path) -> None:
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(key(*entry) for entry in keys)
        count = len(shape) if n_dims is None else n_dims
        entry = string(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind % U32, offset % U64)
        data = head + entry
        path.write_bytes(data + bytes(-len(data) % 32) + bytes(64))

    return build


def _cut(build: Build, nbytes: int) -> Build:
    """The same file without its last bytes."""

    def cut(path: Path) -> None:
        build(path)
        path.write_bytes(path.read_bytes()[:-nbytes])

    return cut


def _counts(n_tensors: int, n_keys: int) -> Build:
    return lambda path: path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors % U64, n_keys % U64) + bytes(40))


def _key(name: str | bytes, kind: str, value: Any) -> Build:
    return _file([*PLAIN, (name, kind, value)], [filled("x", (2,), F32)])


def _variant_key(name: str, kind: str, value: Any) -> Build:
    return _file(
        [*twin_keys([A, B], instead={name: (f"general.tensor_variant.{KEYS[name]}", kind, value)}), *IQ3_KEYS], TWIN
    )


KEYS = {
    "version": "version",
    "count": "count",
    "default": "default",
    "budget": "budget_mb",
    "order": "promote_order",
    "tie": "promote_tie",
}
VALUES: list[Key] = [
    ("v.u8", "u8", 1),
    ("v.i8", "i8", -1),
    ("v.u16", "u16", 1),
    ("v.i16", "i16", -1),
    ("v.i32", "i32", -1),
    ("v.f32", "f32", 0.5),
    ("v.u64", "u64", 1),
    ("v.bool", *_raw("bool", b"\1")),
    ("v.i64", *_raw("i64", struct.pack("<q", -1))),
    ("v.f64", *_raw("f64", struct.pack("<d", 0.5))),
    ("v.bools", *_raw("[bool]", struct.pack("<Q", 2) + b"\1\0")),
    ("v.strings", "[str]", ["", "a", "é\n"]),
    ("v.floats", "[f32]", [0.5, float("nan")]),
    ("v.none", "[str]", []),
]


def _split(name: str, number: Key, count: Key, second: Sequence[Key]) -> dict[str, Build]:
    total: Key = ("split.tensors.count", "i32", 4)
    first = [*twin_keys([A, B], [0, 0]), *IQ3_KEYS, number, count, total]
    return {
        f"{name}-00001-of-00002": _file(first, TWIN[:2]),
        f"{name}-00002-of-00002": _file(second, TWIN[2:4]),
    }


def _split_keys(number: int) -> list[Key]:
    return [("split.no", "u16", number), ("split.count", "u16", 2), ("split.tensors.count", "i32", 4)]


def seeds() -> dict[str, Build]:
    """Name -> builder of the good files."""
    keys = [*twin_keys([A, B], [0, 0], instead={"budget": ("general.tensor_variant.budget_mb", "u32", 1)}), *IQ3_KEYS]
    three = [filled(A + end, ROW, kind) for end, kind in (("", Q3_K), (".v1", Q4_K), (".v2", Q6_K))]
    return {
        "twin": _file(keys, TWIN),
        "twin-three": _file(twin_keys([A, "unknown", A], default=1, count=3), three),
        "twin-early": early_twin,
        "q2_0": _file(twin_keys([A]), [filled(A, ROW, Q2_0), PAIR[1]]),
        "iq3_a770": _file([*PLAIN, *IQ3_KEYS], PAIR[:1]),
        "nested": _file([*nested_keys([B, A]), *IQ4_KEYS], NESTED),
        "iq4_a770": _file([*PLAIN, *IQ4_KEYS], [filled(A, ROW, IQ4_A770)]),
        "plain": _file([*PLAIN, ("general.alignment", "u32", 64), *VALUES], TWIN[2:], alignment=64),
        # llama.cpp requires tensors without elements to load; readers divided by zero on them
        "shape-0": _tensor(shape=(0,)),
        "shape-0-of-2-c": _tensor(shape=(4, 0)),
        "shape-0-of-4-c": _tensor(shape=(4, 1, 1, 0)),
    } | _split("split", *_split_keys(0)[:2], _split_keys(1))


def hostile() -> dict[str, Build]:
    """Name -> builder of the files that must be refused; the names of those that crashed stock llama.cpp end in -c."""
    nested = [*nested_keys([A]), *IQ4_KEYS]
    files: dict[str, Build] = {
        "empty": lambda path: path.write_bytes(b""),
        "magic-only": lambda path: path.write_bytes(b"GGUF"),
        "counts-keys": _counts(0, 1 << 62),
        "counts-keys-negative": _counts(0, -1),
        "counts-tensors": _counts(1 << 54, 0),
        "counts-tensors-negative": _counts(-1, 0),
        # names
        "key-empty-c": _key("", "u32", 1),
        "key-nul": _key(b"a\0b", "u32", 1),
        "key-newline": _key(b"a\nb", "u32", 1),
        "key-twice": _key("general.architecture", "str", "x"),
        "tensor-empty-name": _tensor(b""),
        "tensor-nul": _tensor(b"a\0b"),
        "tensor-long-name": _tensor(b"n" * 64),
        "tensor-name-length": lambda path: path.write_bytes(
            b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, U64 - 1) + bytes(40)
        ),
        # values
        "value-type-13": _key("k", "raw", struct.pack("<IQ", 13, 0)),
        "value-type-255": _key("k", "raw", struct.pack("<IQ", 255, 0)),
        "value-type-negative": _key("k", "raw", struct.pack("<iQ", -1, 0)),
        "string-length": _key("k", *_raw("str", struct.pack("<Q", 1 << 30))),
        "string-length-max": _key("k", *_raw("str", struct.pack("<Q", U64 - 1))),
        "array-of-arrays": _key("k", *_array(9, 1, struct.pack("<IQI", 4, 1, 1))),
        "array-of-nothing": _key("k", *_array(200, 0)),
        "array-count": _key("k", *_array(4, 1 << 30)),
        "array-count-max": _key("k", *_array(4, U64 - 1)),
        "array-strings-count": _key("k", *_array(8, 1 << 61)),
        "array-strings-length": _key("k", *_array(8, 1, struct.pack("<Q", 1 << 40))),
        # alignment
        "alignment-str-c": _key("general.alignment", "str", "32"),
        "alignment-u64-c": _key("general.alignment", "u64", 32),
        "alignment-array-c": _key("general.alignment", "[u32]", [32, 32]),
        "alignment-0": _key("general.alignment", "u32", 0),
        "alignment-3": _key("general.alignment", "u32", 3),
        "alignment-max": _key("general.alignment", "u32", 1 << 31),
        # shapes, types, offsets
        "dims-5": _tensor(shape=(1,) * 5),
        "dims-max": _tensor(n_dims=U32 - 1),
        "shape-negative": _tensor(shape=(U64 - 1,)),
        "shape-max": _tensor(shape=((1 << 63) - 1,)),
        "shape-product": _tensor(shape=(1 << 32, 1 << 31)),
        "type-removed": _tensor(shape=(256,), kind=4),
        "type-negative": _tensor(kind=-1),
        # the engine's own numbers for IQ3_A770 and its relatives, which no file holds
        "type-43": _tensor(shape=(256,), kind=43),
        "type-45": _tensor(shape=(256,), kind=45, keys=[*PLAIN, *IQ4_KEYS]),
        "type-41000": _tensor(shape=(256,), kind=41000),
        "offset-max": _tensor(offset=-1),
        "offset-1": _tensor(offset=1),
        "rows-of-less-than-a-block": _tensor(shape=(255,), kind=IQ3_A770),
        "iq3-version": _tensor(shape=(256,), kind=IQ3_A770, keys=[*PLAIN, ("iq3_a770.version", "[u32]", [])]),
        "iq3-codebook": _tensor(shape=(256,), kind=IQ3_A770, keys=[*PLAIN, ("iq3_a770.codebook", "[str]", [""] * 8)]),
        # what the loader looks at
        "architecture-u32": _file([("general.architecture", "u32", 1)], TWIN[2:3]),
        "architecture-array": _file([("general.architecture", "[str]", ["a", "b"])], TWIN[2:3]),
        "file-type-str": _key("general.file_type", "str", "1"),
        "split-count-str": _key("split.count", "str", "2"),
        "split-count-max": _key("split.count", "u16", 65535),
        "variants-of-nothing": _file(twin_keys([]), TWIN[4:]),
        "variants-names": _file(twin_keys([A]), [filled(f".v{number}", ROW, Q3_K) for number in (1, 2)]),
        "variants-number": _file(twin_keys([A]), [TWIN[2], filled(f"{B}.v{'9' * 40}", ROW, Q3_K)]),
        "variants-count-max": _variant_key("count", "u32", U32 - 1),
        "tie-short": _variant_key("tie", "[u32]", [1]),
        "tie-str": _variant_key("tie", "[str]", ["1", "2"]),
        "order-u32": _variant_key("order", "[u32]", [1, 2]),
        "order-str": _variant_key("order", "str", A),
    }
    files |= {f"nested-{case.replace(' ', '-')}": build for case, (build, _) in BAD_NESTED.items()}
    files["nested-plane-shape-max"] = _tensor(A.encode() + b".r1", shape=(1 << 62, 8), kind=IQ3_A770_R, keys=nested)
    files["nested-plane-offset-max"] = _tensor(A.encode() + b".r1", (256,), IQ3_A770_R, -1, keys=nested)
    files["nested-cut-plane"] = _cut(_file([*nested_keys([B, A]), *IQ4_KEYS], NESTED), 40)
    for name in ("version", "count", "default", "budget"):
        for kind, value in (("str", "1"), ("u64", 1), ("[u32]", [1]), ("f32", 1.0)):
            files[f"variant-{name}-{kind.strip('[]')}{'s' * (kind[0] == '[')}"] = _variant_key(name, kind, value)
    good = _split_keys(0)
    files |= _split("split-no-first", *good[:2], good[:1])
    files |= _split("split-none", *good[:2], [])
    return files


def write_corpus(folder: Path) -> None:
    """Write seeds/ and hostile/ into `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for part, files in (("seeds", seeds()), ("hostile", hostile())):
        (folder / part).mkdir(parents=True)
        for name, build in files.items():
            build(folder / part / f"{name}.gguf")


def huge(folder: Path) -> list[Path]:
    """Files too large to keep: thousands of variants, groups, keys and entries of the order."""
    some = range(4000)
    keys: list[Key] = [(f"k{number}", "u32", number) for number in some]
    names = [f"g{number}" for number in some]
    pairs = [Raw(name + end, ROW, kind) for name in names for end, kind in (("", Q3_K), (".v1", Q4_K))]
    large = [replace(tensor, shape=(256, 64)) for tensor in pairs]
    variants = [Raw("g" if number == 0 else f"g.v{number}", ROW, Q3_K) for number in some]
    return [
        write(folder / "variants.gguf", twin_keys(["g"], count=len(some)), variants),
        write(folder / "groups.gguf", twin_keys(names, [number // 2 for number in some]), pairs),
        # a tie that does not fit and is met 4,000 times
        write(folder / "one-tie.gguf", twin_keys(names, [0] * len(names)), large),
        write(folder / "order.gguf", twin_keys([A, "u"] * 50_000), TWIN[2:4]),
        write(folder / "keys.gguf", [*PLAIN, *keys], []),
        write(folder / "key-long.gguf", [*PLAIN, ("k" * 65536, "u32", 1)], []),
    ]


SMALL = [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 31, 42, 63, 64, 127, 255, 256, 770, 771, 772, 4096, 65535, 1 << 24]
LARGE = [(1 << bits) + offset for bits in (31, 32, 56, 62, 63, 64) for offset in (-32, -1, 0)]
NUMBERS = [number for number in SMALL + LARGE if number < U64]


def mutate(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """Change one to four places: bits, bytes, numbers that matter, lost or repeated or foreign pieces, a lost end."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        if not data:
            break
        at = dice.randrange(len(data))
        end = at + dice.randint(1, 64)
        match dice.randrange(8):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at] = dice.randrange(256)
            case 2:
                data[at] = dice.choice(b".vr012")
            case 3 | 4:
                width = dice.choice((4, 8))
                data[at : at + width] = dice.choice(NUMBERS).to_bytes(8, "little")[:width]
            case 5:
                data[at:at] = data[at:end]
            case 6:
                del data[at:end]
            case 7 if dice.randrange(8) == 0:
                del data[at:]
            case 7 if other:
                start = dice.randrange(len(other))
                data[at:end] = other[start : start + end - at]
    return bytes(data)


if __name__ == "__main__":
    write_corpus(CORPUS)
    sizes = [path.stat().st_size for path in CORPUS.glob("*/*.gguf")]
    print(f"{len(sizes)} files, {sum(sizes)} bytes in {CORPUS}")
