"""What a change redoes: exactly the rules whose result depends on it."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from small_run import NANO_CONFIG, ROOT

pytestmark = pytest.mark.nano

# what comes after each stage, with it
RELEASE = {"make_release", "gather_timing", "write_tables", "write_crate"}
# the logits are temporary: made again, everything is measured against them again
KLD = {"write_reference_logits", "measure_quality", "gather_quality", "measure_order", "gather_curve"}
# nothing runs beside the measurement of speed: it comes last
QUALITY = {"measure_speed", "draw_speed", *KLD, *RELEASE}
PRUNED = {"prune", *QUALITY}
TWIN = {"pack_twin", "verify_twin", *PRUNED}
RANKED = {"rank_groups", "draw_sensitivity", *TWIN}
MEASURED = {"pack_draft", "write_rank_logits", "measure_mix", "score_measured", *RANKED}
QUANTIZED = {"quantize_recipe", *MEASURED}
CALIBRATED = {"compute_imatrix", "rank_layers", "score_groups", "write_provenance", *QUANTIZED}
CONVERTED = {"convert_checkpoint", "convert_tower", *CALIBRATED}
ENGINE = {"fetch_engine", "build_engine", "test_engine"}


def planned(output: str) -> set[str]:
    return set(re.findall(r"^([a-z_0-9]+) +\d+$", output, re.MULTILINE)) - {"all", "total"}


@pytest.fixture(scope="module")
def workspace(nano: Path, root: Path, tmp_path_factory) -> Path:
    """A copy of the finished project, linked where it is large, to plan changes in."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(root, copy, symlinks=True, copy_function=os.link, ignore=shutil.ignore_patterns(".venv", ".git"))
    return copy


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ("models/nex-n2-nano/checkpoint/tokenizer_config.json", CONVERTED),
        ("models/nex-n2-nano/calibration.txt", CALIBRATED),
        ("models/nex-n2-nano/evaluation.txt", QUALITY),
        (str(min((ROOT / "patches").rglob("*.patch")).relative_to(ROOT)), ENGINE | CONVERTED),
        ("release/BUILD.md", RELEASE),
        ("scripts/prune_dual/cli/verify.py", PRUNED),
        ("README.md", set()),
    ],
)
def test_a_changed_file_redoes_only_what_depends_on_it(workspace, root, snakemake, changed, redone):
    path = workspace / changed
    text = path.read_text()
    path.unlink()
    path.write_text(text + "\n")
    try:
        done = snakemake("-n", "--configfile", NANO_CONFIG, cwd=workspace)
        assert done.returncode == 0, done.stdout
        assert planned(done.stdout) == redone
    finally:
        path.unlink()
        os.link(root / changed, path)


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"imatrix": {"chunks": 8}}, CALIBRATED),
        ({"rank": {"chunks": 8}}, {"write_provenance", *MEASURED}),
        ({"rank": {"curve": [50]}}, QUALITY),
        ({"bench": {"quality": {"chunks": 8}}}, QUALITY),
        ({"bench": {"speed": {"n_gen": 16}}}, {"measure_speed", "draw_speed", *RELEASE}),
        (
            {"prune_targets": [{"name": "9mib", "budget_mb": 9}]},
            {"gather_quality", "measure_speed", "draw_speed", *RELEASE},
        ),
        ({"release": {"repo": "someone/some-model"}}, RELEASE),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_changed_setting_redoes_only_what_depends_on_it(workspace, snakemake, tmp_path, change, redone):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(change))
    done = snakemake("-n", "--configfile", NANO_CONFIG, str(overlay), cwd=workspace)
    assert done.returncode == 0, done.stdout
    assert planned(done.stdout) == redone
