"""Run llama.cpp's comparison of the Vulkan backend with that for CPUs, on a CPU device: the types that are ours."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from phase_twin.backend_ops import Run, compare, passed, pattern
from phase_twin.files import write_text
from phase_twin.lavapipe import on_lavapipe
from phase_twin.rule import run_rule

INTEGER_DOT = "integer dot"
# as it is; without fused experts; where a card has no half precision; where it has dot products of four bytes
RUNS = {
    "fused": Run(),
    "unfused": Run({"GGML_VK_DISABLE_FUSION": "1"}, ("MOE_FFN",)),
    "single precision": Run({"GGML_VK_DISABLE_F16": "1"}, ("MUL_MAT",)),
    INTEGER_DOT: Run(
        {"GGML_VK_FORCE_INTEGER_DOT": "1", "GGML_VK_FORCE_MMVQ": "1"}, ("MUL_MAT", "MUL_MAT_ID", "MOE_FFN")
    ),
}
TYPES = ("iq3_a770", "iq4_a770")
STATS = {"GGML_VK_STATS": "1"}


def count_dispatches(output: str) -> Counter[str]:
    """Return how often each pipeline was dispatched, as GGML_VK_STATS=1 prints it at exit."""
    found = re.findall(r"vk-stats: (\S+) +(\d+) dispatches", output)
    return Counter({pipeline: int(number) for pipeline, number in found})


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    command = [snakemake.input.operations, "test", "-b", "Vulkan0"]
    tool_log, types = snakemake.log.tool, snakemake.params.types
    Path(tool_log).unlink(missing_ok=True)
    lacks = json.loads(Path(snakemake.input.facts).read_text())["shaders"]["lacks"]
    chosen = {name: run for name, run in RUNS.items() if name != INTEGER_DOT or "integer dot products" not in lacks}
    jobs = (
        (name, operation, on_lavapipe() | STATS | run.settings, pattern(operation, types))
        for name, run in chosen.items()
        for operation in run.chosen(types)
    )
    runs: dict[str, dict[str, Any]] = {}
    for name, outputs in compare(command, jobs, snakemake.threads, tool_log).items():
        dispatches = sum(map(count_dispatches, outputs.values()), Counter())
        runs[name] = {"passed": passed(outputs, name), "dispatches": dict(sorted(dispatches.items()))}
    write_text(snakemake.output.report, json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
