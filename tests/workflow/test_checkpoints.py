"""Checkpoints of other shapes: a twin that loads in each phase, or one line before anything is made of them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import checkpoints as shapes
from prune_dual import Gguf
from small_run import MODEL, Run, new_project, snakemake

pytestmark = pytest.mark.engine

Settings = dict[str, Any]
EXPERTS = ("gate", "up", "down")


@dataclass(frozen=True)
class Made:
    """A shape, what is set beside it, and what comes of it."""

    shape: shapes.Shape
    settings: Settings = field(default_factory=dict)
    files: tuple[str, ...] = ("model.safetensors",)
    tower: bool = True
    head: bool = False
    """Whether the twin has the block of an MTP head."""
    types: tuple[dict[str, str], dict[str, str]] = (
        dict.fromkeys(EXPERTS, "IQ3_A770"),
        dict.fromkeys(EXPERTS, "Q4_K"),
    )
    told: str = ""
    """What a run says of it."""


# down has rows as wide as an expert; these have no type of 256-blocks
NARROW = ({"gate": "IQ3_A770", "up": "IQ3_A770", "down": "IQ4_NL"}, {"gate": "Q4_K", "up": "Q4_K", "down": "Q5_0"})
NO_TOWER = {"tower": False}
MADE = {
    "text-only": Made(shapes.text_only, **NO_TOWER),
    "tower under another prefix, fused gate_up": Made(shapes.together(shapes.fused, shapes.other_prefix)),
    "tied embeddings, 4 experts, odd shard names": Made(
        shapes.together(shapes.text_only, shapes.flat(shapes.tied), shapes.flat(shapes.experts(4))),
        files=("weights-b.safetensors", "A.safetensors", "model-7-of-9.safetensors"),
        **NO_TOWER,
    ),
    "60 experts, rows of 320": Made(
        shapes.together(shapes.text_only, shapes.flat(shapes.experts(60)), shapes.flat(shapes.rows(320))),
        types=NARROW,
        told="ffn_down_exps.weight: IQ4_NL in place of IQ3_A770 in 4 tensors: 320 columns are no multiple of 256",
        **NO_TOWER,
    ),
    "128 experts, rows of 128": Made(
        shapes.together(shapes.text_only, shapes.flat(shapes.experts(128)), shapes.flat(shapes.rows(128))),
        types=NARROW,
        told="ffn_down_exps.weight: Q5_0 in place of Q4_K in 4 tensors: 128 columns are no multiple of 256",
        **NO_TOWER,
    ),
    "FP8": Made(shapes.together(shapes.text_only, shapes.flat(shapes.fp8)), **NO_TOWER),
    "MTP head, not wanted": Made(shapes.mtp(True)),
    "MTP head, kept": Made(shapes.mtp(True), {"model": {"mtp": "keep"}}, head=True),
    "MTP head, undeclared": Made(shapes.mtp(False)),
    "qwen3moe": Made(shapes.qwen3_moe, **NO_TOWER),
    "qwen2moe": Made(shapes.qwen2_moe, **NO_TOWER),
    "olmoe": Made(shapes.olmoe, **NO_TOWER),
    "dots1, first layer dense": Made(shapes.dots1, {"model": {"dense_layers": 1, "moe_layers": 3}}, **NO_TOWER),
}

REFUSED: dict[str, tuple[shapes.Shape, Settings, str]] = {
    "weights of the tower are gone": (
        shapes.tower_gone,
        {"vision_tower": True},
        "has no vision tower; set model.vision_tower: false",
    ),
    "dense first layer": (
        shapes.dense_first,
        {},
        "layer 0 has no routed experts, without which the engine does not load",
    ),
    "dense first layer, not told": (shapes.dots1, {}, "set model.moe_layers: 3, dense_layers: 1"),
    "no shared expert": (shapes.no_shared_expert, {}, "layer 0 has no shared expert"),
    "gate_up in another order": (shapes.transposed, {}, "gate_up_proj"),
    "fewer layers than said": (shapes.as_it_is, {"moe_layers": 5}, "set model.moe_layers: 4, dense_layers: 0"),
    "MTP head wanted, none there": (shapes.as_it_is, {"mtp": "keep"}, "mtp"),
}


@pytest.fixture(scope="module")
def project(engine_bin, tmp_path_factory) -> Path:
    return new_project(tmp_path_factory.mktemp("family") / "project")


@pytest.fixture(scope="module")
def run_on(project) -> Callable[..., tuple[int, str, Path]]:
    """Run the pipeline on a checkpoint; exit code, output, folder of results."""

    def run(
        name: str, folder: Path, settings: dict[str, Any], targets: list[str], *options: str
    ) -> tuple[int, str, Path]:
        model = {"name": name, "title": name, "checkpoint": f"local:{folder}", "moe_layers": 4}
        overlay = {
            "model": model | settings.get("model", {}),
            "imatrix": {"corpus": f"local:{MODEL}/calibration.txt", "chunks": 8},
            "variants": [
                {**dict.fromkeys(EXPERTS, "IQ3_A770"), "rest": "Q6_K", "feedback": False},
                {**dict.fromkeys(EXPERTS, "Q4_K"), "rest": "Q6_K"},
            ],
            "rank": {"method": "first_layers"},
        }
        (project / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
        done = snakemake(project, *options, "--", *targets)
        return done.returncode, done.stdout, project / "results" / name

    return run


def types_by_class(twin: Gguf) -> tuple[dict[str, str], dict[str, str]]:
    """The types of the experts outside an MTP head, by class, of each variant."""
    found: tuple[dict[str, set[str]], ...] = ({}, {})
    for tensor in twin.tensors:
        if match := re.fullmatch(r"blk\.[0-3]\.ffn_(\w+)_exps\.weight(\.v1)?", tensor.name):
            found[bool(match[2])].setdefault(match[1], set()).add(tensor.type_name)
    return tuple({part: "/".join(sorted(kinds)) for part, kinds in one.items()} for one in found)


@pytest.mark.parametrize("case", MADE)
def test_a_twin_is_made(run_on, run: Run, tmp_path, case):
    made = MADE[case]
    name = re.sub(r"\W+", "-", case).lower()
    folder = shapes.write(tmp_path / "checkpoint", made.shape, files=made.files)
    tower = f"results/{name}/{name}-mmproj-F16.gguf"
    wanted = [f"results/{name}/verify.json", *([tower] if made.tower else [])]
    code, said, results = run_on(name, folder, made.settings, wanted)
    assert code == 0, said[-3000:]
    if made.tower:
        parts = [tensor.name for tensor in Gguf.read(results / Path(tower).name).tensors]
        assert {match[1] for part in parts if (match := re.match(r"v\.blk\.(\d+)\.", part))} == {"0", "1"}
    assert made.told in said
    twin = Gguf.read(results / f"{name}-twin.gguf")
    assert types_by_class(twin) == made.types
    blocks = {int(match[1]) for t in twin.tensors if (match := re.match(r"blk\.(\d+)\.", t.name))}
    assert blocks == set(range(4 + made.head))
    report = json.loads((results / "verify.json").read_text())
    for stored, wanted in zip(report["types"], made.types, strict=True):
        assert {part: list(stored[part]) for part in EXPERTS} == {part: [kind] for part, kind in wanted.items()}
    for phase in "01":
        chosen = ("--override-kv", f"general.tensor_variant.default=int:{phase}")
        run("llama-completion", "-m", twin.path, *chosen, "-p", "The", "-n", 2, "-no-cnv", "--no-warmup")


def test_no_tower_is_planned_where_there_is_none(run_on, tmp_path):
    code, said, _ = run_on("plan", shapes.write(tmp_path / "checkpoint", shapes.text_only), {}, ["release"], "-n")
    assert code == 0, said[-3000:]
    planned = re.findall(r"^(\w+) +\d+$", said, re.MULTILINE)
    assert "make_release" in planned
    assert "convert_tower" not in planned


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_made(run_on, tmp_path, case):
    shape, settings, words = REFUSED[case]
    folder = shapes.write(tmp_path / "checkpoint", shape)
    code, said, results = run_on("refused", folder, {"model": settings}, ["results/refused/verify.json"])
    assert code != 0
    assert words in said
    assert "Traceback" not in said
    assert not results.exists()
