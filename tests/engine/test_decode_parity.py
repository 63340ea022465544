"""The engine decodes IQ3_A770 and IQ4_A770 as the independent numpy decoders do, bit for bit."""

import shutil
import subprocess

import gguf
import numpy as np
import pytest

from phase_twin import iq3_a770, iq4_a770
from prune_dual import IQ3_A770_BYTES, IQ4_A770_BYTES, Gguf

pytestmark = [pytest.mark.engine, pytest.mark.nano]

PLANTED = "blk.0.ffn_gate_exps.weight"
DECODERS = {"IQ3_A770": (iq3_a770.decode, IQ3_A770_BYTES), "IQ4_A770": (iq4_a770.decode, IQ4_A770_BYTES)}


@pytest.fixture(scope="module", params=DECODERS)
def quantized(request, bf16, nano, root, run, tmp_path_factory):
    """The nano with experts in a type, and the golden blocks planted all over one tensor."""
    path = tmp_path_factory.mktemp("decode") / "planted.gguf"
    if request.param == "IQ3_A770":
        shutil.copy(root / "resources/models/nex-n2-nano/Nex-N2-nano-variant0.gguf", path)
    else:
        run("llama-quantize", "--imatrix", nano / "imatrix.gguf", bf16, path, request.param)
    decode, nbytes = DECODERS[request.param]
    golden = np.fromfile(root / f"tests/data/{request.param.lower()}.blocks", np.uint8).reshape(-1, nbytes)
    # the engine refuses to requantize blocks that decode to no number
    finite = golden[np.isfinite(decode(golden)).all(axis=1)]
    assert len(finite) >= 24
    (tensor,) = (tensor for tensor in Gguf.read(path).tensors if tensor.name == PLANTED)
    blocks = np.resize(finite, (tensor.nbytes // nbytes, nbytes))
    with path.open("r+b") as file:
        file.seek(tensor.data.offset)
        file.write(blocks.tobytes())
    return path, request.param


def test_engine_and_numpy_agree_on_every_weight(quantized, engine_bin, tmp_path):
    path, kind = quantized
    decode, nbytes = DECODERS[kind]
    decoded = tmp_path / "decoded.gguf"
    command = [engine_bin("llama-quantize"), "--allow-requantize", path, decoded, "F32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    engine = {tensor.name: tensor.data for tensor in gguf.GGUFReader(decoded).tensors}
    compared = 0
    for tensor in Gguf.read(path).tensors:
        if tensor.type_name != kind:
            continue
        blocks = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.data.offset)
        ours = decode(blocks.reshape(-1, nbytes)).ravel()
        assert np.array_equal(ours.view(np.uint32), engine[tensor.name].ravel().view(np.uint32)), tensor.name
        compared += 1
    assert compared == 24
