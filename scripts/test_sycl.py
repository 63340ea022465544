"""Run the tests of the SYCL kernels and llama.cpp's comparison of the backend with that for CPUs, on a CPU device."""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from phase_twin.arc import DORMANT, UNFUSED
from phase_twin.backend_ops import Run, compare, passed
from phase_twin.files import write_text
from phase_twin.rule import run_rule, run_tool

BY_EXPERT = "reordered, expert by expert"
# with all that the patches add, on the layouts for Intel's cards; without fused experts; with a product for each expert
# of a prompt; with llama.cpp's own path for reordered experts of K-quants; with nothing of it
RUNS = {
    "reordered, fused": Run({"GGML_SYCL_FORCE_REORDER": "1"}),
    "reordered": Run({"GGML_SYCL_FORCE_REORDER": "1"} | UNFUSED, ("MOE_FFN",)),
    BY_EXPERT: Run(
        {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_MOE_GROUPED": "0"},
        ("MOE_FFN",),
        # what remains: a token has reordered the weights; then 2, of which an expert has one or two, and 33, of which
        # one of 8 experts with 4 to a token has at least 17: more than 8 decode its weights
        left_out=r"\b(again=0|n_mats=(32|128)|n_tokens=(1|9))\b",
    ),
    "llama.cpp's own": Run(
        {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_MOE_REORDER": "0"} | UNFUSED,
        ("MUL_MAT_ID",),
    ),
    "off": Run(DORMANT, left=frozenset({"MUL_MAT", "MOE_FFN"})),
}
STATS = {"GGML_SYCL_STATS": "1"}


def count_calls(output: str) -> Counter[str]:
    """Return how often each kernel ran, by "kernel type", as GGML_SYCL_STATS=1 prints it at exit."""
    found = re.findall(r"sycl-stats: (\S+) +(\S+) +(\d+) calls", output)
    return Counter({f"{kernel} {kind}": int(calls) for kernel, kind, calls in found})


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    on_cpu = Path(snakemake.params.toolchain) / "sycl-run"
    command = [on_cpu, snakemake.input.operations, "test", "-b", "SYCL0"]
    tool_log, types = snakemake.log.tool, snakemake.params.types
    Path(tool_log).unlink(missing_ok=True)

    def check(program: str) -> int:
        """Checks of a program that calls kernels; it ends with an error if one fails."""
        return run_tool([on_cpu, program], tool_log, append=True).count(" ok\n")

    with ThreadPoolExecutor(snakemake.threads) as pool:
        checks = dict(zip(snakemake.input.kernels, pool.map(check, snakemake.input.kernels), strict=True))
    jobs = (
        (name, operation, STATS | run.settings, run.cases(operation, types))
        for name, run in RUNS.items()
        for operation in run.chosen(types)
    )
    runs: dict[str, dict[str, Any]] = {}
    for name, outputs in compare(command, jobs, snakemake.threads, tool_log).items():
        calls = sum(map(count_calls, outputs.values()), Counter())
        runs[name] = {"passed": passed(outputs, name), "calls": dict(sorted(calls.items()))}
    kernels = {Path(program).name: count for program, count in checks.items()}
    write_text(snakemake.output.report, json.dumps({"kernels": kernels, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
