"""Facts about the engine's programs that several rule scripts need."""

import json
import os
from pathlib import Path

# which base and patches it is made of
SOURCE_MANIFEST = "resources/engine/source.json"

# programs the build makes; the rules refer to them by these names
PROGRAMS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-bench",
    "llama-completion",
    "llama-server",
    "llama-variant-info",
    "llama-gguf-split",
)
TESTS = (
    "test-quantize-fns",
    "test-backend-ops",
    "test-gguf",
    "test-tensor-variant",
    "test-iq3-a770",
    "test-iq3-a770-feedback",
    "test-iq3-a770-mul",
    "test-iq3-a770-graph",
    "test-extra-buffers",
    "test-iq4-a770-feedback",
    "test-k-feedback",
    "test-fusion-plan",
    "test-variant-change",
    "test-server-elastic",
)
# cycles of single kernels, for the bench of the CPU
KERNEL_TIMES = "test-quantize-perf"
# what is built with the SYCL backend, to be run on a CPU device
SYCL_TESTS = ("test-sycl-fusion", "test-sycl-experts")
SYCL_PROGRAMS = (
    "test-backend-ops",
    *SYCL_TESTS,
    "test-variant-change",
    "llama-perplexity",
    "llama-completion",
    "llama-server",
    "llama-bench",
)

# OpenMP threads that spin on a shared core can slow a step 20 x; this keeps batch and decode speed
ENVIRONMENT = {"GOMP_SPINCOUNT": "5000"}

# one setting for every run whose results are compared
N_BATCH = 2048
BATCH = ("-b", str(N_BATCH), "-ub", "512")


def engine_identity(facts: str | os.PathLike[str]) -> dict[str, str]:
    """Return the base's commit and the patches' SHA-256, from the JSON of a source tree or of a build."""
    told = json.loads(Path(facts).read_text(encoding="utf-8"))
    return {key: told[key] for key in ("commit", "patch_sha256")}


def override(key: str, value: int | str) -> list[str]:
    """Return the engine flag that sets one general.tensor_variant key at load."""
    kind = "int" if isinstance(value, int) else "str"
    return ["--override-kv", f"general.tensor_variant.{key}={kind}:{value}"]
