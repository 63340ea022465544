"""The nano model on the Vulkan backend: the same quality as on the CPU, and the memory that was counted."""

import re
import subprocess

import pytest

from phase_quality import CARD_FLAGS, PHASES, TWIN, Quality
from prune_dual import Gguf, Memory, Model, Settings

pytestmark = [pytest.mark.vulkan, pytest.mark.nano]


@pytest.fixture(scope="module")
def measure(nano, engine_bin, vulkan, root, tmp_path_factory):
    return Quality(root, engine_bin, vulkan, tmp_path_factory.mktemp("logits")).measure


def dispatches(said: str, pipeline: str) -> int:
    """How often pipelines whose names begin so were dispatched."""
    return sum(int(number) for number in re.findall(rf"vk-stats: {pipeline}\S* +(\d+)", said))


@pytest.mark.parametrize("case", PHASES, ids=PHASES.values())
def test_quality_in_batches(measure, case):
    expected, error, _ = measure(case, 2, None)
    found, _, said = measure(case, 2, {})
    assert abs(found - expected) < 3 * error
    # the same pipeline serves all K-quants
    kind = PHASES[case] if PHASES[case].endswith("_a770") else "quant"
    assert dispatches(said, rf"matmul_id\w*_{kind}") > 0


@pytest.mark.parametrize("case", PHASES, ids=PHASES.values())
def test_quality_token_by_token(measure, case):
    expected, error, _ = measure(case, 1, None)
    fused, _, said = measure(case, 1, {}, ubatch=1)
    alone, _, before = measure(case, 1, {"GGML_VK_DISABLE_FUSION": "1"}, ubatch=1)
    assert abs(fused - expected) < 3 * error
    assert abs(alone - expected) < 3 * error
    kind = PHASES[case].lower()
    assert dispatches(said, f"mul_mat_vec_id_{kind}") > 0
    ours = kind.endswith("_a770")
    assert (dispatches(said, f"mul_mat_vec_id_glu_{kind}") > 0) == ours
    assert dispatches(before, f"mul_mat_vec_id_glu_{kind}") == 0


@pytest.mark.parametrize("ubatch", [128, 512])
def test_memory_is_what_was_counted(nano, vulkan, root, ubatch):
    command = [
        *vulkan("llama-completion"),
        "-m",
        root / TWIN,
        *CARD_FLAGS,
        "-c",
        "8192",
        "-lv",
        "4",
        "-ub",
        str(ubatch),
    ]
    command += ["--no-warmup", "-p", "x", "-n", "1", "-no-cnv"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    logged = {
        what: sum(map(float, re.findall(rf"Vulkan0 +{what} buffer size += +([0-9.]+) MiB", said)))
        for what in ("model", "compute", "KV", "RS")
    }
    model = Model.of(Gguf.read(root / TWIN))
    memory = Memory(model, Settings(ctx=8192, ubatch=ubatch, flash_attn=False))
    assert memory.compute(0, model.n_blocks + 1) / 2**20 == pytest.approx(logged["compute"], rel=0.01)
