"""The account of memory and what the engine logs, for the nano model and for the shapes of the real one."""

from itertools import product

import pytest

from check_memory import counted, logged
from gguf_files import nex_n2_mini
from prune_dual import Gguf, Model, Settings

pytestmark = [pytest.mark.engine, pytest.mark.nano]

NEAR = 0.05
GRID = list(product((512, 2048, 8192, 32768), (64, 256, 512), (True, False)))
CACHES = [("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "f16"), ("f32", "f16"), ("bf16", "q5_1")]


@pytest.fixture(scope="session")
def near(engine_bin):
    """Compare what is counted for a file and settings with what the engine logs."""

    def check(path, settings: Settings, *arguments: str) -> None:
        ours = counted(Model.of(Gguf.read(path)), settings)
        for name, size in logged(engine_bin("llama-completion"), path, settings, *arguments).items():
            # what is logged is rounded to 0.01
            assert ours[name] / 2**20 == pytest.approx(size, rel=NEAR, abs=0.005), name

    return check


@pytest.fixture(scope="session")
def twin(nano):
    return nano / "Nex-N2-nano-twin.gguf"


@pytest.mark.parametrize(("ctx", "ubatch", "flash"), GRID)
def test_context_and_batch(twin, near, ctx, ubatch, flash):
    near(twin, Settings(ctx=ctx, ubatch=ubatch, flash_attn=flash))


@pytest.mark.parametrize(("k", "v"), CACHES)
@pytest.mark.parametrize("flash", [True, False])
def test_cache_types(twin, near, k, v, flash):
    if not flash and v != "f16":
        pytest.skip("the engine wants flash attention for it")
    near(twin, Settings(ctx=4096, cache_type_k=k, cache_type_v=v, flash_attn=flash))


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize(("ctx", "parallel"), [(4096, 2), (4096, 4), (5000, 3)])
def test_several_sequences(twin, near, ctx, parallel, flash):
    near(twin, Settings(ctx=ctx, parallel=parallel, flash_attn=flash))


@pytest.mark.parametrize(("ctx", "flash"), [(8192, True), (8192, False), (32768, True)])
def test_shapes_of_nex_n2_mini(tmp_path, near, ctx, flash):
    # a file of holes, not to be packed; the engine logs its buffers before it misses the tokenizer
    near(nex_n2_mini(tmp_path / "holes.gguf"), Settings(ctx=ctx, flash_attn=flash), "--no-repack")
