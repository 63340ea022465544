"""Count what one decoded token costs on the SYCL backend, and what cards could make of it.

usage: dev/run trace_sycl   (from the project's folder, after `make nano` and `make test-sycl`)

Models with the shapes of Nex-N2-mini and 4 and 8 layers run on the CPU device under SYCL_UR_TRACE and make N and N + 1
tokens: the difference is one token, and 4 further layers (three delta nets, one attention) cost what 8 layers have more
than 4. Kernels, copies and host waits are counted, weight bytes and int8 operations follow from the shapes. The result
is results/sycl-cost.json; dev/run update_tables puts it into docs/sycl.md. What a layer launches for a prompt of some
450 tokens is counted in the same way, with MUL_MAT_ID grouped and as llama.cpp does it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from phase_twin.arc import DORMANT
from phase_twin.errors import UserError
from phase_twin.files import write_text
from prune_dual import BLOCK_SIZES
from shape_model import (
    D_MODEL,
    EXPERTS,
    EXPERTS_USED,
    F32,
    LAYERS,
    TYPES,
    VOCABULARY,
    layer_shapes,
    tensor_type,
    write_shape_model,
)

RUN = Path("toolchain/sycl/sycl-run")
PROGRAM = Path("resources/engine/sycl-test/bin/llama-completion")
TEMPLATE = Path("results/nex-n2-nano/Nex-N2-nano-9mib.gguf")
TEXT = Path("models/nex-n2-nano/evaluation.txt")
PROMPT_CHARACTERS = 1200
REPORT = Path("results/sycl-cost.json")

TOKENS = 3
OFF = {"GGML_FUSION_OFF": "all"}
MODES = {
    "dormant": DORMANT,
    "live, fusions off": OFF,
    # what a card does by default then: its ESIMD kernels for dense K-quants need no quantized input either
    "live, fusions off, dense DMMV": OFF | {"GGML_SYCL_PRIORITIZE_DMMV": "1"},
    "live": {},
}
PROMPT_MODES = {"as in llama.cpp": OFF | {"GGML_SYCL_MOE_GROUPED": "0"}, "grouped": {}}
CALLS = {
    "kernels": r"urEnqueueKernelLaunch\w*",
    "copies": r"urEnqueueUSM(?:Memcpy|Fill)\w*",
    "waits": r"ur(?:QueueFinish|EventWait)",
}

# published figures: bandwidth in GB/s (Intel's product pages); a launch through Level Zero costs the host about 5 us
CARDS = {"Arc A770 16 GB": 560.0, "Arc Pro B70": 608.0}
LAUNCH_US, WAIT_US = 5.0, 20.0


def count_calls(trace: str) -> Counter[str]:
    """Return how often each kind of call ends in a trace of the unified runtime."""
    return Counter({kind: len(re.findall(rf"<--- {pattern}\(", trace)) for kind, pattern in CALLS.items()})


def run(model: Path, tokens: int, mode: dict[str, str], prompt: str = "The") -> Counter[str]:
    """Generate tokens under the trace and count its calls."""
    command = [RUN, PROGRAM, "-m", model, "-ngl", "99", "-fa", "off", "-c", "1024", "-p", prompt, "-n", str(tokens)]
    command += ["--temp", "0", "-no-cnv", "--ignore-eos", "--no-warmup", "-t", "1"]
    env = {**os.environ, **mode, "SYCL_UR_TRACE": "2", "GGML_SYCL_FORCE_REORDER": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise UserError(f"{PROGRAM.name} failed (exit code {done.returncode}): {done.stderr[-500:]}")
    return count_calls(done.stdout + done.stderr)


def per_token(layers: int, expert_type: int, folder: Path) -> dict[str, Counter[str]]:
    """Return the calls of one token per mode, for a model of some layers."""
    model = folder / "model.gguf"
    write_shape_model(TEMPLATE, layers, expert_type, model)
    counts = {}
    for name, mode in MODES.items():
        counts[name] = run(model, TOKENS + 1, mode)
        counts[name].subtract(run(model, TOKENS, mode))
    return counts


def per_prompt(expert_type: int, folder: Path) -> dict[str, int]:
    """Return the kernels of one layer for a prompt in one batch, per way of MUL_MAT_ID."""
    prompt = TEXT.read_text()[:PROMPT_CHARACTERS]
    model = folder / "model.gguf"
    counts: dict[str, list[int]] = {name: [] for name in PROMPT_MODES}
    for layers in (4, 8):
        write_shape_model(TEMPLATE, layers, expert_type, model)
        for name, mode in PROMPT_MODES.items():
            counts[name].append(run(model, 1, mode, prompt)["kernels"])
    return {name: (more - few) // 4 for name, (few, more) in counts.items()}


def weight_bytes(expert_type: int) -> tuple[int, int]:
    """Return the bytes of weights that one token reads, and the int8 multiplications it needs, at full size."""
    nbytes = operations = 0
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (D_MODEL, VOCABULARY)}
    for layer in range(LAYERS):
        shapes |= layer_shapes(layer)
    for name, shape in shapes.items():
        kind = tensor_type(name, shape, expert_type)
        block, size = BLOCK_SIZES[kind]
        weights = 1
        for length in shape:
            weights *= length
        if "_exps" in name:
            weights = weights // EXPERTS * EXPERTS_USED
        nbytes += weights // block * size
        operations += weights if kind != F32 else 0
    return nbytes, operations


def expected(nbytes: int, calls: dict[str, int], bandwidth: float) -> float:
    """Return tokens per second: weights at full bandwidth, and launches and waits one after the other with it."""
    seconds = nbytes / (bandwidth * 1e9) + (calls["kernels"] + calls["copies"]) * LAUNCH_US * 1e-6
    return 1 / (seconds + calls["waits"] * WAIT_US * 1e-6)


def measure(expert: str) -> list[dict[str, Any]]:
    """Return a row per mode for experts of one type."""
    with tempfile.TemporaryDirectory(dir="results") as folder:
        few, more = (per_token(layers, TYPES[expert], Path(folder)) for layers in (4, 8))
    nbytes, operations = weight_bytes(TYPES[expert])
    rows = []
    for mode in MODES:
        step = {kind: more[mode][kind] - few[mode][kind] for kind in CALLS}
        calls = {kind: few[mode][kind] + (LAYERS // 4 - 1) * step[kind] for kind in CALLS}
        rates = {card: round(expected(nbytes, calls, bandwidth), 1) for card, bandwidth in CARDS.items()}
        row = {"experts": expert, "path": mode, "per_token": calls, "per_4_layers": step}
        rows.append(row | {"weight_bytes": nbytes, "int8_operations": operations, "expected_tokens_per_second": rates})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Measure both phases."""
    rows = [row for expert in ("IQ3_A770", "Q4_K") for row in measure(expert)]
    report = {"launch_us": LAUNCH_US, "wait_us": WAIT_US, "bandwidth_gb_s": CARDS, "rows": rows}
    write_text(REPORT, json.dumps(report, indent=2) + "\n")
    # takes far longer
    with tempfile.TemporaryDirectory(dir="results") as folder:
        report["kernels_per_layer_of_a_prompt"] = per_prompt(TYPES["IQ3_A770"], Path(folder))
    print(json.dumps(report["kernels_per_layer_of_a_prompt"]), flush=True)
    write_text(REPORT, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
