"""The engine decodes IQ3_A770 as the independent numpy decoder does, bit for bit."""

import shutil
import subprocess

import gguf
import numpy as np
import pytest

from phase_twin.iq3_a770 import decode
from prune_dual import IQ3_A770_BYTES, Gguf

pytestmark = [pytest.mark.engine, pytest.mark.nano]

PLANTED = "blk.0.ffn_gate_exps.weight"


@pytest.fixture(scope="module")
def quantized(root, nano, tmp_path_factory):
    """The nano's variant 0, with the golden blocks planted all over one tensor."""
    path = tmp_path_factory.mktemp("decode") / "planted.gguf"
    shutil.copy(root / "resources/models/nex-n2-nano/Nex-N2-nano-variant0.gguf", path)
    golden = np.fromfile(root / "tests/data/iq3_a770.blocks", np.uint8).reshape(-1, IQ3_A770_BYTES)
    # the engine refuses to requantize blocks that decode to no number
    finite = golden[np.isfinite(decode(golden)).all(axis=1)]
    assert len(finite) >= 24
    (tensor,) = (tensor for tensor in Gguf.read(path).tensors if tensor.name == PLANTED)
    blocks = np.resize(finite, (tensor.nbytes // IQ3_A770_BYTES, IQ3_A770_BYTES))
    with path.open("r+b") as file:
        file.seek(tensor.data.offset)
        file.write(blocks.tobytes())
    return path


def test_engine_and_numpy_agree_on_every_weight(quantized, engine_bin, tmp_path):
    decoded = tmp_path / "decoded.gguf"
    command = [engine_bin("llama-quantize"), "--allow-requantize", quantized, decoded, "F32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    engine = {tensor.name: tensor.data for tensor in gguf.GGUFReader(decoded).tensors}
    compared = 0
    for tensor in Gguf.read(quantized).tensors:
        if tensor.type_name != "IQ3_A770":
            continue
        blocks = np.fromfile(quantized, np.uint8, tensor.nbytes, offset=tensor.data.offset)
        ours = decode(blocks.reshape(-1, IQ3_A770_BYTES)).ravel()
        assert np.array_equal(ours.view(np.uint32), engine[tensor.name].ravel().view(np.uint32)), tensor.name
        compared += 1
    assert compared == 24
