"""Run llama.cpp's comparison of the Vulkan backend with that for CPUs, on a CPU device: the types that are ours."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.backend_ops import OPERATIONS, Run, compare, passed, pattern, single_cases
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


# to encode so many experts takes longer than to compute with them
SLOW = r"\bn_mats=(32|128)\b"
# lavapipe of Mesa 22.3 looks at buffers of the graph before, though they are gone, which can damage the heap
ALONE = ("MUL_MAT_ID", "MOE_FFN")


def cases_of(program: str | Path, types: Sequence[str], tool_log: str) -> dict[str, list[str]]:
    """Return the expressions of each operation's cases: a process for each expression."""
    cases = {operation: [pattern(operation, types, SLOW)] for operation in OPERATIONS}
    for operation in ALONE:
        cases[operation] = single_cases(program, operation, *cases[operation], tool_log)
    return cases


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    command = [snakemake.input.operations, "test", "-b", "Vulkan0"]
    tool_log, types = snakemake.log.tool, snakemake.params.types
    Path(tool_log).unlink(missing_ok=True)
    lacks = json.loads(Path(snakemake.input.facts).read_text())["shaders"]["lacks"]
    chosen = {name: run for name, run in RUNS.items() if name != INTEGER_DOT or "integer dot products" not in lacks}
    cases = cases_of(snakemake.input.operations, types, tool_log)
    jobs = (
        (name, operation, on_lavapipe() | STATS | run.settings, expression)
        for name, run in chosen.items()
        for operation in run.chosen(types)
        for expression in cases[operation]
    )
    runs: dict[str, dict[str, Any]] = {}
    for name, outputs in compare(command, jobs, snakemake.threads, tool_log).items():
        dispatches = sum(map(count_dispatches, outputs.values()), Counter())
        runs[name] = {"passed": passed(outputs, name), "dispatches": dict(sorted(dispatches.items()))}
    write_text(snakemake.output.report, json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
