"""The engine's logits of the nano model are those of transformers, which reads the same checkpoint on its own.

Both calculate in F32. The engine's file rounds log-probabilities to steps of at most 1/4096 nat. With the rows
normalized again that is a KL divergence of 1e-9: nothing beside the bar.
"""

import os
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert_checkpoint import converter_command, converter_environment, nextn_options
from logits_file import Logits, cut, divergence, saved_positions

pytestmark = pytest.mark.engine

N_CTX, CHUNKS = 512, 20
# how attention is calculated -> the engine's options, and the largest mean and median of the KL divergence
MODES = {
    # all in F32: nothing but the rounding of the file is left
    "F32": (("-fa", "off", "-ctk", "f32", "-ctv", "f32"), 1e-6, 2e-9),
    # as users run it: flash attention, keys and values in F16. A router that just so takes another expert makes up to
    # 0.1 at one position, 2e-5 of the mean: that is for the machine to say
    "default": ((), 1e-4, 5e-8),
}


@pytest.fixture(scope="module")
def checkpoint(root) -> Path:
    return root / "models/nex-n2-nano/checkpoint"


@pytest.fixture(scope="module")
def text(root) -> Path:
    return root / "models/nex-n2-nano/evaluation.txt"


@pytest.fixture(scope="module")
def f32(engine_bin, root, checkpoint, tmp_path_factory) -> Path:
    """The checkpoint in F32, by the converter of the built engine's tree."""
    engine_bin("llama-perplexity")  # with the programs comes the tree
    tree, path = root / "resources/engine/source", tmp_path_factory.mktemp("f32") / "nano-F32.gguf"
    options = ("--outtype", "f32", *nextn_options(checkpoint))
    command = converter_command(tree, "qwen35", checkpoint, path, *options)
    env = os.environ | converter_environment(tree)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    types = {tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors}
    assert types == {gguf.GGMLQuantizationType.F32}
    return path


@pytest.fixture(scope="module", params=MODES)
def engine(request, run, f32, text, tmp_path_factory) -> tuple[str, Logits]:
    path = tmp_path_factory.mktemp("engine") / "logits"
    options = ("-f", text, "-c", N_CTX, "-b", N_CTX, "--chunks", CHUNKS, *MODES[request.param][0])
    run("llama-perplexity", "-m", f32, *options, "--kl-divergence-base", path)
    return request.param, Logits.read(path)


@pytest.fixture(scope="module")
def tokens(checkpoint, text) -> np.ndarray:
    """The text's first tokens by transformers, [CHUNKS, N_CTX]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    found = tokenizer(text.read_text())["input_ids"]
    return np.array(found[: CHUNKS * N_CTX]).reshape(CHUNKS, N_CTX)


@pytest.fixture(scope="module")
def expected(checkpoint, tokens) -> list[np.ndarray]:
    """The log-probabilities of transformers, chunk by chunk, at the positions that the engine saves."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # more only fight over the cores: the matrices are small
    model, report = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    with torch.inference_mode():
        logits = (model(input_ids=torch.from_numpy(chunk)[None], use_cache=False).logits[0] for chunk in tokens)
        return [cut(chunk[saved_positions(N_CTX)].double().numpy()) for chunk in logits]


def test_logits_are_the_same(engine, tokens, expected):
    mode, found = engine
    assert np.array_equal(found.tokens, tokens)
    pairs = list(zip(expected, found, strict=True))
    kld = np.array([divergence(ours, theirs) for ours, theirs in pairs])
    top = np.mean([ours.argmax(-1) == theirs.argmax(-1) for ours, theirs in pairs])
    told = f"{mode}: KLD mean {kld.mean():.2e}, median {np.median(kld):.2e}, largest {kld.max():.2e}, top-1 {top:.3%}"
    print(told)
    assert kld.shape == (CHUNKS, N_CTX - 1 - N_CTX // 2)
    assert kld.min() > -1e-12, told
    _, max_mean, max_median = MODES[mode]
    assert kld.mean() <= max_mean, told
    assert np.median(kld) <= max_median, told
    assert top >= 0.999, told
