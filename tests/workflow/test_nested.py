"""A nested twin from the checkpoint to fitted files, with the small model: one phase in the other, in every buffer."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from phase_twin.files import sha256_file
from phase_twin.results import read_result
from prune_dual import IQ3_A770, IQ4_A770, NESTED, SIBLINGS, Gguf, Twin, select, sha256_span
from small_run import MODEL, MODELS, RESULTS, Run, new_project, snakemake

pytestmark = pytest.mark.engine

EXPERTS = ("gate", "up", "down")
TWIN = f"{RESULTS}/Nex-N2-nano-twin.gguf"
KINDS = f"{RESULTS}/bench/kinds.json"
# base and plane as they are in the file, or woven while they are loaded and packed for this CPU
IN_PLACE, PACKED = ("--no-repack",), ()


def write_recipes(path: Path, *kinds: str, **settings: object) -> None:
    """Write an overlay with a recipe for each type of experts, without feedback, which takes long."""
    variants = [{**dict.fromkeys(EXPERTS, kind), "rest": "Q6_K", "feedback": False} for kind in kinds]
    path.write_text(yaml.safe_dump({"variants": variants, **settings}), encoding="utf-8")


@pytest.fixture(scope="module")
def project(engine_bin, tmp_path_factory) -> Path:
    """A project with a nested twin, and what is pruned from it."""
    folder = new_project(tmp_path_factory.mktemp("nested") / "project")
    write_recipes(folder / "nested.yaml", "IQ3_A770", "IQ4_A770")
    done = snakemake(folder, "nested.yaml", "--", "twin", "prune_9mib", "prune_10mib", KINDS)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def test_both_phases_take_little_more_than_the_large_one(project):
    twin = Twin.read(project / TWIN)
    assert (twin.kind, twin.count, len(twin.groups)) == (NESTED, 2, 24)
    assert {tensor.type for variants in twin.groups.values() for tensor in variants.values()} == {IQ3_A770, IQ4_A770}
    high = sum(tensor.nbytes for tensor in twin.phase(1))
    assert sum(tensor.nbytes for tensor in twin.gguf.tensors) == high
    # planes stand behind all else, in the order of promotion
    planes = [f"{name}.r1" for name in twin.promote_order]
    assert [tensor.name for tensor in twin.gguf.tensors][-len(planes) :] == planes


def test_the_engine_takes_what_the_tool_takes(project):
    report = json.loads((project / RESULTS / "verify.json").read_text())
    assert {mode: facts["promoted"] for mode, facts in report["engine"].items()} == {
        "default": 0,
        "variant 1": 24,
        "budget": len(select(Twin.read(project / TWIN), budget_bytes=_budget(project)).promoted),
        "promote": 1,
    }


def _budget(project: Path) -> int:
    report = json.loads((project / RESULTS / "verify.json").read_text())
    low, high = (report["engine"][mode]["selected_bytes"] for mode in ("default", "variant 1"))
    return -(-(low + high) // (2 << 20)) << 20


@pytest.fixture(scope="module")
def logits(run: Run, project, tmp_path_factory):
    """Log-probabilities of a model for a text, as llama-perplexity saves them."""

    def write(model: str, *flags: str) -> bytes:
        path = tmp_path_factory.mktemp("logits") / "logits.kld"
        text = project / MODEL / "evaluation.txt"
        command = ["-m", project / model, "-f", text, "-c", "128", "--chunks", "2", "-t", "2", *flags]
        run("llama-perplexity", *command, "--kl-divergence-base", path)
        return path.read_bytes()

    return write


DEFAULT_1 = ("--override-kv", "general.tensor_variant.default=int:1")


@pytest.mark.parametrize("buffers", [IN_PLACE, PACKED], ids=["in place", "packed"])
def test_a_plane_beside_its_base_is_as_good_as_both_in_one_tensor(logits, buffers):
    whole = logits(f"{MODELS}/Nex-N2-nano-variant1.gguf", *buffers)
    assert logits(TWIN, *DEFAULT_1, *buffers) == whole
    assert logits(TWIN, *buffers) != whole


def test_what_is_pruned_is_what_a_budget_loads(logits, project):
    for budget in (9, 10):
        pruned = f"{RESULTS}/Nex-N2-nano-{budget}mib.gguf"
        types = {tensor.type for tensor in Gguf.read(project / pruned).tensors}
        assert IQ4_A770 in types
        loaded = logits(TWIN, "--override-kv", f"general.tensor_variant.budget_mb=int:{budget}", *IN_PLACE)
        assert logits(pruned, *IN_PLACE) == loaded


def test_what_is_refined_is_not_quantized_again(run: Run, project, tmp_path):
    out = tmp_path / "out.gguf"
    done = run("llama-quantize", *DEFAULT_1, "--allow-requantize", project / TWIN, out, "Q4_K", code=1)
    assert re.search(r"and its plane cannot be quantized together; prune the file first", done.stdout)
    assert not out.exists()


def test_the_large_phase_is_compared_with_a_sibling(project):
    comparison = read_result(project / KINDS)
    assert [(row["label"], row["bpw_experts"]) for row in comparison["rows"]] == [("IQ4_A770", 4.4375), ("Q4_K", 4.5)]
    refined, sibling = comparison["rows"]
    apart = sibling["difference"]["kld_mean"]["diff"]
    assert apart == pytest.approx(sibling["kld_mean"] - refined["kld_mean"], abs=1e-7)


def test_an_open_kind_is_chosen(project, tmp_path):
    """The nested twin has the bytes of one that was asked for; siblings win where it must have no KLD at all."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("source"))
    (folder / "resources/engine/source").symlink_to(project / "resources/engine/source")
    asked = sha256_file(project / TWIN)
    for margin, kind in ((10, NESTED), (-1, SIBLINGS)):
        quality = {"bench": {"quality": {"chunks": 8}}, "nested_margin": margin}
        write_recipes(folder / "auto.yaml", "IQ3_A770", "Q4_K", "IQ4_A770", **quality)
        done = snakemake(folder, "auto.yaml", "--", "twin")
        assert done.returncode == 0, done.stdout[-3000:]
        assert Twin.read(folder / TWIN).kind == read_result(folder / RESULTS / "kind.json")["kind"] == kind
        assert (sha256_file(folder / TWIN) == asked) == (kind == NESTED)


def test_a_released_twin_becomes_nested(nano, bf16, root, engine_bin, tmp_path):
    released, out = nano / "Nex-N2-nano-twin.gguf", tmp_path / "nested.gguf"
    command = [root / "dev/run", "nest_twin", released, "--model", bf16, "--imatrix", nano / "imatrix.gguf"]
    command += ["--engine", engine_bin("llama-quantize").parent, "--threads", "2"]
    subprocess.run([*map(str, command), "--out", str(out)], check=True)
    before, after = Twin.read(released), Twin.read(out)
    assert (before.kind, after.kind) == (SIBLINGS, NESTED)
    assert (after.promote_order, after.promote_tie) == (before.promote_order, before.promote_tie)
    assert [(tensor.name, sha256_span(tensor.data)) for tensor in after.phase(0)] == [
        (tensor.name, sha256_span(tensor.data)) for tensor in before.phase(0)
    ]
    again = subprocess.run([*map(str, command), "--out", str(out)], capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr == f"nest_twin: {out}: exists already; --force replaces it\n"
