"""The account of memory and what the engine logs, for the nano model and for the shapes of the real one."""

import re
import subprocess
from itertools import product

import pytest

from gguf_files import nex_n2_mini
from prune_dual import Gguf, Memory, Model, Settings

pytestmark = [pytest.mark.engine, pytest.mark.nano]

NEAR = 0.05
GRID = list(product((512, 2048, 8192, 32768), (64, 256, 512), (True, False)))
CACHES = [("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "f16"), ("f32", "f16"), ("bf16", "q5_1")]


@pytest.fixture(scope="session")
def logged(engine_bin):
    """What the engine logs for a model and settings: name of a buffer -> MiB."""

    def run(path, settings: Settings) -> dict[str, float]:
        command = [engine_bin("llama-completion"), "-m", path, "-c", settings.ctx, "-ub", settings.ubatch]
        command += ["-ctk", settings.cache_type_k, "-ctv", settings.cache_type_v, "-np", settings.parallel]
        command += ["-fa", "on" if settings.flash_attn else "off"]
        command += ["-lv", 4, "--no-warmup", "-p", "x", "-n", 1, "--temp", 0, "-no-cnv"]
        done = subprocess.run(
            [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )
        found = re.findall(r"CPU +(KV|RS|compute) buffer size = +([0-9.]+) MiB", done.stdout + done.stderr)
        assert len(found) == 3, done.stderr[-2000:]
        return {name: float(size) for name, size in found}

    return run


def assert_near(settings: Settings, path, logged) -> None:
    model = Model.of(Gguf.read(path))
    memory, layers = Memory(model, settings), (0, model.n_blocks + 1)
    ours = {"KV": memory.kv(*layers), "RS": memory.rs(*layers), "compute": memory.compute(*layers, host=True)}
    for name, size in logged(path, settings).items():
        # what is logged is rounded to 0.01
        assert ours[name] / 2**20 == pytest.approx(size, rel=NEAR, abs=0.005), name


@pytest.fixture(scope="session")
def twin(nano):
    return nano / "Nex-N2-nano-twin.gguf"


@pytest.mark.parametrize(("ctx", "ubatch", "flash"), GRID)
def test_context_and_batch(twin, logged, ctx, ubatch, flash):
    assert_near(Settings(ctx=ctx, ubatch=ubatch, flash_attn=flash), twin, logged)


@pytest.mark.parametrize(("k", "v"), CACHES)
@pytest.mark.parametrize("flash", [True, False])
def test_cache_types(twin, logged, k, v, flash):
    if not flash and v != "f16":
        pytest.skip("the engine wants flash attention for it")
    assert_near(Settings(ctx=4096, cache_type_k=k, cache_type_v=v, flash_attn=flash), twin, logged)


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize(("ctx", "parallel"), [(4096, 2), (4096, 4), (5000, 3)])
def test_several_sequences(twin, logged, ctx, parallel, flash):
    assert_near(Settings(ctx=ctx, parallel=parallel, flash_attn=flash), twin, logged)


@pytest.mark.parametrize(("ctx", "flash"), [(8192, True), (8192, False), (32768, True)])
def test_shapes_of_nex_n2_mini(tmp_path, logged, ctx, flash):
    # a file of holes; the engine logs its buffers before it misses the tokenizer
    assert_near(Settings(ctx=ctx, flash_attn=flash), nex_n2_mini(tmp_path / "holes.gguf"), logged)
