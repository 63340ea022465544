"""What the scripts for SYCL read and write: planted faults, traces, models of the real shapes."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from gguf_files import F32, PLAIN, Raw, write
from mutate import Mutant, planted
from phase_twin import iq3_a770, iq4_a770
from phase_twin.errors import UserError
from prune_dual import BLOCK_SIZES, Gguf, Twin
from shape_model import D_MODEL, EXPERTS, TYPES, layer_shapes, random_blocks, write_shape_model
from trace_sycl import count_calls, expected, weight_bytes

TRACE = """\
   ---> urEnqueueKernelLaunchWithArgsExp
   <--- urEnqueueKernelLaunchWithArgsExp(.hQueue = 0x56) -> UR_RESULT_SUCCESS;
   <--- urEnqueueUSMMemcpy(.hQueue = 0x56) -> UR_RESULT_SUCCESS;
   <--- urEventWait(.numEvents = 1) -> UR_RESULT_SUCCESS;
   <--- urQueueFinish(.hQueue = 0x56) -> UR_RESULT_SUCCESS;
   <--- urEventRelease(.hEvent = 0x56) -> UR_RESULT_SUCCESS;
"""


def test_calls_are_counted_once():
    assert count_calls(TRACE) == {"kernels": 1, "copies": 1, "waits": 2}


def test_bytes_of_a_token_are_those_of_the_selected_experts():
    small, operations = weight_bytes(TYPES["IQ3_A770"])
    large, same = weight_bytes(TYPES["Q4_K"])
    assert operations == same
    assert large - small == 40 * 3 * 8 * 2048 * 512 * (4.5 - 3.1875) / 8


def test_launches_and_waits_cost_time():
    few, many = ({"kernels": n, "copies": 0, "waits": 0} for n in (0, 1000))
    assert expected(560_000_000, few, 560.0) == pytest.approx(1000)
    assert expected(560_000_000, many, 560.0) == pytest.approx(1 / (0.001 + 0.005))


@pytest.fixture
def tree(tmp_path) -> Path:
    path = tmp_path / "moe.cpp"
    path.write_text("a + b; c + d;")
    return tmp_path


def test_a_fault_is_planted_and_removed(tree):
    path = tree / "moe.cpp"
    with pytest.raises(KeyboardInterrupt), planted(Mutant("sign", "moe.cpp", "a + b", "a - b"), tree):
        assert path.read_text() == "a - b; c + d;"
        raise KeyboardInterrupt
    assert path.read_text() == "a + b; c + d;"


def test_a_fault_that_no_longer_fits_is_told(tree):
    with pytest.raises(UserError, match="stands 2 times"), planted(Mutant("plus", "moe.cpp", "+", "-"), tree):
        pass


def test_a_model_of_the_real_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr("shape_model.EXPERTS", 2)
    keys = [*PLAIN, ("qwen35moe.attention.recurrent_layers", "[u8]", [1, 1])]
    template = write(tmp_path / "nano.gguf", keys, [Raw("token_embd.weight", (256, 4), F32, bytes(4096))])
    write_shape_model(template, 1, TYPES["IQ3_A770"], tmp_path / "out.gguf")
    model = Gguf.read(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in model.tensors}
    assert model.kv["qwen35moe.block_count"].value == 1
    assert "qwen35moe.attention.recurrent_layers" not in model.kv  # that of the template
    assert tensors["blk.0.ffn_gate_exps.weight"].type_name == "IQ3_A770"
    assert tensors["output.weight"].shape == (D_MODEL, 4)
    halves = np.frombuffer(tensors["blk.0.ffn_up_exps.weight"].data.read(), np.uint8).reshape(-1, 102)[:, 100:]
    assert np.isfinite(halves.copy().view(np.float16)).all()


def test_a_model_of_one_type(tmp_path, monkeypatch):
    monkeypatch.setattr("shape_model.EXPERTS", 2)
    template = write(tmp_path / "nano.gguf", PLAIN, [Raw("token_embd.weight", (256, 4), F32, bytes(4096))])
    write_shape_model(template, 1, TYPES["IQ3_S"], tmp_path / "out.gguf", TYPES["IQ3_S"])
    kinds = {tensor.name: tensor.type_name for tensor in Gguf.read(tmp_path / "out.gguf").tensors}
    assert kinds["output.weight"] == kinds["blk.0.ffn_up_exps.weight"] == kinds["blk.0.ssm_out.weight"] == "IQ3_S"
    assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["blk.0.ssm_conv1d.weight"] == "F32"


def test_a_nested_model_loads_both_planes(tmp_path, monkeypatch):
    monkeypatch.setattr("shape_model.EXPERTS", 2)
    template = write(tmp_path / "nano.gguf", PLAIN, [Raw("token_embd.weight", (256, 4), F32, bytes(4096))])
    kind = TYPES["IQ4_A770"]
    write_shape_model(template, 1, kind, tmp_path / "out.gguf", kind, nested=True)
    twin = Twin.read(tmp_path / "out.gguf")
    assert (twin.kind, twin.default, len(twin.groups)) == ("nested", 1, 3)
    assert twin.promote_order == list(twin.groups)
    kinds = {tensor.name: tensor.type_name for tensor in twin.phase(1)}
    assert kinds["blk.0.ffn_up_exps.weight"] == kinds["blk.0.ssm_out.weight"] == "IQ4_A770"
    stored = {tensor.name: tensor.type_name for tensor in twin.gguf.tensors}
    assert [stored[f"blk.0.ffn_up_exps.weight{end}"] for end in ("", ".r1")] == ["IQ3_A770", "IQ3_A770_R"]


def test_only_iq4_a770_can_be_nested(tmp_path):
    with pytest.raises(UserError, match="experts of IQ4_A770"):
        write_shape_model(tmp_path / "nano.gguf", 1, TYPES["Q4_K"], tmp_path / "out.gguf", nested=True)


@pytest.mark.parametrize("kind", TYPES)
def test_random_blocks_hold_small_values(kind):
    blocks = np.frombuffer(random_blocks(TYPES[kind], 100_000, np.random.default_rng(0)), np.uint8)
    blocks = blocks.reshape(-1, BLOCK_SIZES[TYPES[kind]][1])
    ours = {"IQ3_A770": iq3_a770.decode, "IQ4_A770": iq4_a770.decode}
    values = ours[kind](blocks) if kind in ours else dequantize(blocks, GGMLQuantizationType[kind])
    assert np.isfinite(values).all()
    assert 0 < np.abs(values).max() < 1


def test_every_fourth_layer_is_attention():
    kinds = [
        "attn_q" if any("attn_q.weight" in name for name in layer_shapes(layer)) else "delta" for layer in range(8)
    ]
    assert kinds == (["delta"] * 3 + ["attn_q"]) * 2
    assert layer_shapes(0)["blk.0.ffn_down_exps.weight"] == (512, 2048, EXPERTS)
