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
from logits_file import Logits, cut, divergence

pytestmark = pytest.mark.engine

N_CTX, CHUNKS = 512, 20
MAX_KLD = 1e-6


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


@pytest.fixture(scope="module")
def engine(run, f32, text, tmp_path_factory) -> Logits:
    path = tmp_path_factory.mktemp("engine") / "logits"
    chunks = ("-f", text, "-c", N_CTX, "-b", N_CTX, "--chunks", CHUNKS)
    # a KV cache in F16 alone would be worth more than all the rest
    run("llama-perplexity", "-m", f32, *chunks, "-ctk", "f32", "-ctv", "f32", "--kl-divergence-base", path)
    return Logits.read(path)


@pytest.fixture(scope="module")
def tokens(checkpoint, text) -> np.ndarray:
    """The text's first tokens by transformers, [CHUNKS, N_CTX]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    found = tokenizer(text.read_text())["input_ids"]
    return np.array(found[: CHUNKS * N_CTX]).reshape(CHUNKS, N_CTX)


@pytest.fixture(scope="module")
def model(checkpoint):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # more only fight over the cores: the matrices are small
    loaded, report = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    return loaded


def test_tokens_are_the_same(engine, tokens):
    assert np.array_equal(engine.tokens, tokens)


def test_logits_are_the_same(engine, model, tokens):
    import torch

    divergences, same_top = [], []
    for chunk, found in zip(tokens, engine, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(chunk)[None], use_cache=False).logits[0, engine.positions]
        expected = cut(logits.double().numpy())
        divergences.append(divergence(expected, found))
        same_top.append(expected.argmax(-1) == found.argmax(-1))
    kld, top = np.array(divergences), np.array(same_top)
    told = f"mean KLD {kld.mean():.2e}, largest {kld.max():.2e}, same top token {100 * top.mean():.3f} %"
    print(told)
    assert kld.shape == (CHUNKS, N_CTX - 1 - N_CTX // 2)
    assert kld.min() > -1e-7, told
    assert kld.mean() <= MAX_KLD, told
    assert top.mean() >= 0.999, told
