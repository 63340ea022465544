"""What a look at a checkpoint's files shows: what is missing, cut or odd, before anything is made of them.

Only heads of the files of weights are read: names, shapes and offsets of their tensors.
"""

import json
import operator
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import UserError

INDEX = "model.safetensors.index.json"
# any one of these is a tokenizer
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
MAX_HEADER = 1 << 30
NUMBERED = re.compile(r"(?P<stem>.+-)(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
EXPERT = re.compile(r"(?:^|\.)layers\.(?P<layer>\d+)\.(?:\w+\.)?experts\.(?:(?P<expert>\d+)\.)?(?P<part>[^.]+)")
TOWER = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")
MTP = re.compile(r"(^|\.)mtp\.")
# classes whose fused experts the converter takes as [experts, 2 x rows, columns], and no other way
FUSED_IN_ORDER = ("Qwen2Moe", "Qwen3Moe", "Qwen3Next", "Qwen3_5Moe")
# classes of which the engine wants routed and shared experts in every layer
EXPERTS_IN_EVERY_LAYER = ("Qwen3_5Moe",)
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
MTP_COUNTS = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
# rule by which a tokenizer splits text -> the converter's name of it
PRE_TOKENIZERS = {
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*": "qwen2",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*": "qwen35",
}


@dataclass(frozen=True)
class Checkpoint:
    """Facts of a complete checkpoint."""

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    """Tensor -> shape, in PyTorch's order."""

    @property
    def text(self) -> dict[str, Any]:
        """The part of config.json that is about the text model."""
        return self.config.get("text_config", self.config)

    @property
    def model_class(self) -> str:
        """The class that wrote it; empty where config.json does not say."""
        return str((self.config.get("architectures") or [""])[0])

    @property
    def layers(self) -> int:
        """Layers that config.json declares."""
        for key in ("num_hidden_layers", "n_layers", "num_layers"):
            if isinstance(count := self.text.get(key), int):
                return count
        raise UserError(f"{self.folder / 'config.json'}: num_hidden_layers is missing; download it again")

    @cached_property
    def tower(self) -> list[str]:
        """Tensors of the vision tower."""
        return [name for name in self.shapes if TOWER.search(name)]

    @cached_property
    def mtp(self) -> list[str]:
        """Tensors of an MTP head."""
        return [name for name in self.shapes if MTP.search(name) and not TOWER.search(name)]

    @property
    def has_head(self) -> bool:
        """Whether there are whole layers of an MTP head: under a name of their own, or behind the last layer."""
        layers = self.text.get("num_hidden_layers")
        behind = (match and layers and int(match[1]) >= layers for match in map(LAYER.search, self.shapes))
        return any(LAYER.search(name) for name in self.mtp) or any(behind)

    @property
    def declares_head(self) -> bool:
        """Whether config.json tells of an MTP head."""
        return any(self.text.get(key) for key in MTP_COUNTS)

    @cached_property
    def text_names(self) -> list[str]:
        """Tensors of neither."""
        apart = {*self.tower, *self.mtp}
        return [name for name in self.shapes if name not in apart]

    @cached_property
    def experts(self) -> dict[int, dict[str, set[int | None]]]:
        """Layer -> part of its routed experts -> numbers of the experts that have it; None if all are one tensor."""
        found: dict[int, dict[str, set[int | None]]] = defaultdict(lambda: defaultdict(set))
        for name in self.text_names:
            match = EXPERT.search(name)
            if match and int(match["layer"]) < self.layers:
                found[int(match["layer"])][match["part"]].add(int(match["expert"]) if match["expert"] else None)
        return found


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a checkpoint's JSON files, or say in one line that it is missing or cut."""
    try:
        # as other readers do: no byte order mark, no UTF-16
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; download it with the checkpoint") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not what its name says; download it again")
    return found


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, whose size must be what its head says.

    Raises
    ------
    UserError
        if it is missing, cut, or no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if 0 < length <= min(size - 8, MAX_HEADER) else None
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; download it") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        head = None
    try:
        tensors = {name: entry for name, entry in head.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        shapes = {name: tuple(map(operator.index, entry["shape"])) for name, entry in tensors.items()}
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        pointer = " (a Git LFS pointer: run `git lfs pull`)" if size < 1024 else ""
        raise UserError(f"{path}: is no safetensors file{pointer}, or its head is cut; download it again") from error
    if size != end:
        what = "cut" if size < end else "too long"
        raise UserError(f"{path}: is {what}, {size} bytes where its head says {end}; download it again")
    return shapes


def weight_files(folder: Path) -> dict[str, set[str] | None]:
    """Files of weights -> the tensors that the index puts into each; None where there is no index.

    Raises
    ------
    UserError
        if one is missing, or the converter would not find them.
    """
    if (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise UserError(f"{folder / INDEX}: has no weight_map of tensors to files; download it again")
        named: dict[str, set[str]] = defaultdict(set)
        for tensor, name in places.items():
            named[name].add(tensor)
        if missing := [name for name in sorted(named) if not (folder / name).exists()]:
            more = f" ({len(missing)} of {len(named)} files are)" if len(missing) > 1 else ""
            raise UserError(f"{folder / missing[0]}: missing{more}, though {INDEX} names it; download it")
        return dict(named)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if not found:
        others = sorted(path.name for path in folder.glob("*.bin"))
        what = f"weights are in {others[0]}, which is not read" if others else "no weights"
        raise UserError(f"{folder}: {what}; download the *.safetensors of the checkpoint")
    names = set(found)
    for name in found:
        if match := NUMBERED.fullmatch(name):
            width = len(match["number"])
            for number in range(1, int(match["count"]) + 1):
                other = f"{match['stem']}{number:0{width}}-of-{match['count']}.safetensors"
                if other not in names:
                    raise UserError(f"{folder / other}: missing, though there is {name}; download it")
    if odd := [name for name in found if not name.startswith("model")]:
        raise UserError(
            f"{folder / odd[0]}: the converter reads model*.safetensors where there is no {INDEX}; "
            "download that file, or rename this one"
        )
    return dict.fromkeys(found)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read what the files say, and check that they are all there, whole.

    Raises
    ------
    UserError
        naming the first file that is not, and what to do.
    """
    config = read_json(folder / "config.json")
    for key, kind, written in (("text_config", dict, "an object"), ("architectures", list, "a list")):
        if not isinstance(config.get(key, kind()), kind):
            raise UserError(f"{folder / 'config.json'}: {key} is not {written}; download it again")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, expected in weight_files(folder).items():
        found = read_shapes(folder / name)
        if expected is not None and (odd := expected ^ found.keys()):
            raise UserError(
                f"{folder / name}: {min(odd)} is {'missing' if min(odd) in expected else 'not in ' + INDEX}; "
                "it and the index are of two versions: download both again"
            )
        shapes |= found
    return Checkpoint(folder, config, shapes)


def check_side_files(checkpoint: Checkpoint, tower: bool) -> None:
    """Check tokenizer and, where the vision tower is wanted, that there is one, and its preprocessor.

    Raises
    ------
    UserError
        naming the file that is missing or cut.
    """
    folder = checkpoint.folder
    if not any(all((folder / name).exists() for name in names) for names in TOKENIZERS):
        raise UserError(f"{folder / 'tokenizer.json'}: missing; download it with the checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json", *PREPROCESSORS):
        # a link that leads nowhere is missed
        if os.path.lexists(folder / name):
            read_json(folder / name)
    if tower and not checkpoint.tower:
        raise UserError(f"{folder}: has no vision tower; set model.vision_tower: false")
    if tower and not any((folder / name).exists() for name in PREPROCESSORS):
        raise UserError(
            f"{folder / PREPROCESSORS[0]}: missing, which the vision tower needs; download it with the checkpoint, "
            "or set model.vision_tower: false"
        )


def check_experts(checkpoint: Checkpoint, expected: Sequence[int]) -> None:
    """Check that the layers with routed experts are those, one after the other, and complete.

    Raises
    ------
    UserError
        with the first layer or tensor that is not as it must be.
    """
    folder, experts, layers = checkpoint.folder, checkpoint.experts, sorted(checkpoint.experts)
    if not layers:
        raise UserError(f"{folder}: no tensor of routed experts; a twin can be made of mixture-of-experts models only")
    if dense := [number for number in range(layers[0], layers[-1]) if number not in experts]:
        raise UserError(
            f"{folder}: layer {dense[0]} has no routed experts, but those before and behind it have; "
            "a twin can be made only where layers without them come first"
        )
    everywhere = checkpoint.model_class.startswith(EXPERTS_IN_EVERY_LAYER)
    if everywhere and layers[0]:
        raise UserError(
            f"{folder}: layer 0 has no routed experts, without which the engine does not load "
            f"a {checkpoint.model_class}"
        )
    if layers != list(expected):
        raise UserError(
            f"{folder}: routed experts are in layers {layers[0]} to {layers[-1]}, model.moe_layers and dense_layers "
            f"say {expected[0]} to {expected[-1]}; set model.moe_layers: {len(layers)}, dense_layers: {layers[0]}"
        )
    wanted = next((checkpoint.text[key] for key in EXPERT_COUNTS if isinstance(checkpoint.text.get(key), int)), None)
    first = experts[layers[0]].keys()
    for layer, parts in experts.items():
        if odd := first ^ parts.keys():
            raise UserError(
                f"{folder}: {min(odd)} of the experts of layer {layer} is not as in layer {layers[0]}; download again"
            )
        for part, numbers in parts.items():
            if None in numbers or wanted is None:
                continue
            missing = next((number for number in range(wanted) if number not in numbers), None)
            if missing is not None:
                raise UserError(
                    f"{folder}: layer {layer} has no {part} of expert {missing}, "
                    f"though config.json says {wanted} experts; download the weights again"
                )
            if len(numbers) != wanted:
                raise UserError(
                    f"{folder}: layer {layer} has {len(numbers)} experts, config.json says {wanted}; "
                    "download config.json again"
                )
    if everywhere:
        shared = {int(LAYER.search(name)[1]) for name in checkpoint.text_names if ".shared_expert." in name}
        if lacking := set(layers) - shared:
            raise UserError(
                f"{folder}: layer {min(lacking)} has no shared expert, without which the engine does not load "
                f"a {checkpoint.model_class}"
            )
    if checkpoint.model_class.startswith(FUSED_IN_ORDER):
        _check_fused(checkpoint, wanted)


def _check_fused(checkpoint: Checkpoint, wanted: int | None) -> None:
    """Refuse experts that are one tensor per layer, but of an unusual order."""
    columns = checkpoint.text.get("hidden_size")
    for name, shape in checkpoint.shapes.items():
        if not re.search(r"\.experts\.gate_up_proj(\.weight)?$", name):
            continue
        if len(shape) != 3 or shape[1] % 2 or shape[2] != columns or (wanted or shape[0]) != shape[0]:
            raise UserError(
                f"{checkpoint.folder}: {name} is {list(shape)}, expected [{wanted}, 2 x rows, {columns}]: "
                "save it with another version of transformers, or one tensor per expert"
            )


def check_layers(checkpoint: Checkpoint) -> None:
    """Check that config.json and the weights agree on layers and output.

    Raises
    ------
    UserError
        with what differs.
    """
    found = {int(match[1]) for name in checkpoint.text_names if (match := LAYER.search(name))}
    # one by one: a count may be anything
    missing = next((number for number in range(checkpoint.layers) if number not in found), None)
    if missing is not None:
        raise UserError(
            f"{checkpoint.folder}: no tensor of layer {missing}, though config.json says {checkpoint.layers} "
            "layers; download the weights again"
        )
    tied = checkpoint.config.get("tie_word_embeddings", checkpoint.text.get("tie_word_embeddings"))
    if tied is False and not any(name.endswith("lm_head.weight") for name in checkpoint.text_names):
        raise UserError(
            f"{checkpoint.folder}: lm_head.weight is missing, and config.json does not tie it to the embeddings "
            "(tie_word_embeddings); download the weights again"
        )


def look_at(folder: Path, expert_layers: Sequence[int], tower: bool, head: bool = False) -> Checkpoint:
    """Read a checkpoint and check all that its files show; of vision tower and MTP `head`, if they are wanted.

    Raises
    ------
    UserError
        one line: what, where, what to do.
    """
    checkpoint = read_checkpoint(folder)
    check_layers(checkpoint)
    check_experts(checkpoint, expert_layers)
    check_side_files(checkpoint, tower)
    if head and not checkpoint.has_head:
        raise UserError(f"{folder}: has no weights of an MTP head, which model.mtp: keep asks for; set model.mtp: drop")
    return checkpoint


def pre_tokenizer_of(folder: Path) -> str | None:
    """The converter's name of the rule by which tokenizer.json splits text; None where it is not of a known kind."""
    path = folder / "tokenizer.json"
    rules = json.dumps(read_json(path).get("pre_tokenizer"), ensure_ascii=False) if path.exists() else ""
    return next((name for rule, name in PRE_TOKENIZERS.items() if json.dumps(rule)[1:-1] in rules), None)
