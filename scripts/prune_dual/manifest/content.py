"""manifest.json of a release: size and SHA-256 of every file, and of every tensor of the twin."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..container.entries import Tensor
from ..container.reader import Gguf
from ..errors import GgufError
from ..twin.groups import Twin
from ..twin.kinds import split_variant

MANIFEST_NAME = "manifest.json"
FORMAT, VERSION = "phase-twin-manifest", 1
MAX_NBYTES = 64 << 20  # of a manifest; that of 2000 tensors has half a MiB


@dataclass(frozen=True)
class FileHash:
    """One file: its path below the release folder, size and SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorHash:
    """One tensor as the twin stores it; `offset` is from the start of the file, `rank` its place in promote_order."""

    name: str
    type: str
    shape: list[int]  # row length first
    offset: int
    nbytes: int
    sha256: str
    variant: int
    rank: int | None


@dataclass(frozen=True)
class Manifest:
    """What is in a release; `where` is what messages call it."""

    where: str
    files: list[FileHash]
    twin: str  # name of the twin among the files
    tensors: list[TensorHash]

    @classmethod
    def parse(cls, text: bytes, where: str) -> Self:
        """Read the JSON `text`; raises GgufError, naming `where`, if it is not what it must be."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f'it does not say "format": "{FORMAT}"')
            if data.get("version") != VERSION:
                raise ValueError(f"its version is {data.get('version')!r}, this tool knows {VERSION} only")
            twin = _field(data, "twin", dict, "the manifest")
            return cls(
                where,
                [_entry(FileHash, entry, "files") for entry in _field(data, "files", list, "the manifest")],
                _field(twin, "file", str, "twin"),
                [_entry(TensorHash, entry, "tensors") for entry in _field(twin, "tensors", list, "twin")],
            )
        except (ValueError, RecursionError) as error:
            raise GgufError(f"{where}: not a readable manifest: {error}") from None

    @classmethod
    def of(cls, twin: Twin, files: Sequence[FileHash], hashes: dict[str, str]) -> Self:
        """The manifest of `twin`, whose tensors have the SHA-256 `hashes`, by name, and of the `files` around it."""
        ranks = {name: rank for rank, name in reversed(list(enumerate(twin.promote_order)))}
        tensors = []
        for t in twin.gguf.tensors:
            group, variant = split_variant(t.name, twin.kind)
            rank = ranks.get(group) if group in twin.groups else None
            tensors.append(
                TensorHash(t.name, t.type_name, list(t.shape), t.data.offset, t.nbytes, hashes[t.name], variant, rank)
            )
        return cls(MANIFEST_NAME, list(files), twin.gguf.path.name, tensors)

    def json(self) -> str:
        """The file's text: one line per entry, the same for the same content."""
        files = ",\n".join("  " + json.dumps(asdict(entry), ensure_ascii=False) for entry in self.files)
        tensors = ",\n".join("   " + json.dumps(asdict(entry), ensure_ascii=False) for entry in self.tensors)
        return (
            f'{{\n "format": "{FORMAT}",\n "version": {VERSION},\n "files": [\n{files}\n ],\n'
            f' "twin": {{\n  "file": {json.dumps(self.twin, ensure_ascii=False)},\n'
            f'  "tensors": [\n{tensors}\n  ]\n }}\n}}\n'
        )

    def expected(self, twin: Gguf, tensors: Sequence[Tensor]) -> list[list[TensorHash]]:
        """The entries of what each of `tensors` is made of, which `twin` holds under whatever names.

        Raises
        ------
        GgufError
            if the manifest is of another file.
        """
        entries = {(entry.offset, entry.nbytes): entry for entry in self.tensors}
        stored = {tensor.data: tensor for tensor in twin.tensors}

        def find(tensor: Tensor) -> TensorHash:
            entry = entries.get((tensor.data.offset, tensor.nbytes))
            if not entry or entry.shape != list(tensor.shape) or entry.type != tensor.type_name:
                raise GgufError(
                    f"{self.where}: is not of {twin.path}: tensor {tensor.name!r} is not there as the twin has it; "
                    "name the right one with --manifest, or say --manifest none"
                )
            return entry

        return [[find(stored[span]) for span in tensor.sources] for tensor in tensors]


def _field(data: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(data, dict) or type(data.get(key)) is not kind:
        raise ValueError(f"{where}: {key!r} is missing or no {kind.__name__}")
    if kind is int and not 0 <= data[key] < 1 << 63:
        raise ValueError(f"{where}: {key!r} is {data[key]}, which no file has")
    return data[key]


def _entry(kind: type, data: Any, where: str) -> Any:
    for name, of in (("name", str), ("sha256", str)):
        _field(data, name, of, where)
    what = f"{where}: {data['name']!r}"
    if not re.fullmatch("[0-9a-f]{64}", data["sha256"]):
        raise ValueError(f"{what}: no SHA-256 in hex")
    if kind is FileHash:
        return FileHash(data["name"], _field(data, "bytes", int, what), data["sha256"])
    rank = data.get("rank")
    if rank is not None and type(rank) is not int:
        raise ValueError(f"{what}: 'rank' is neither a number nor null")
    return TensorHash(
        data["name"],
        _field(data, "type", str, what),
        _field(data, "shape", list, what),
        _field(data, "offset", int, what),
        _field(data, "nbytes", int, what),
        data["sha256"],
        _field(data, "variant", int, what),
        rank,
    )
