"""Run the tests of the SYCL kernels and llama.cpp's comparison of the backend with that for CPUs, on a CPU device."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phase_twin.arc import DORMANT, UNFUSED
from phase_twin.files import write_text
from phase_twin.rule import run_rule, run_tool
from test_engine import OPERATIONS, count_passed

# the name that the cases of an operation have for the type of the weights
TYPE_KEY = {"MUL_MAT": "type_a", "MUL_MAT_ID": "type_a", "GET_ROWS": "type", "MOE_FFN": "type_gate_up"}


@dataclass(frozen=True)
class Run:
    """How the backend is set, and the operations that are compared then."""

    settings: dict[str, str] = field(default_factory=dict)
    operations: tuple[str, ...] = (*OPERATIONS, "MOE_FFN")
    # which of them are left to the comparison of all types: runs of nano take the same way
    left: frozenset[str] = frozenset()


# with all that the patches add, on the layouts for Intel's cards; without fused experts; with llama.cpp's own path for
# reordered experts of K-quants; with nothing of it
RUNS = {
    "reordered, fused": Run({"GGML_SYCL_FORCE_REORDER": "1"}),
    "reordered": Run({"GGML_SYCL_FORCE_REORDER": "1"} | UNFUSED, ("MOE_FFN",)),
    "llama.cpp's own": Run(
        {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_MOE_REORDER": "0"} | UNFUSED,
        ("MUL_MAT_ID",),
    ),
    "off": Run(DORMANT, left=frozenset({"MUL_MAT", "MOE_FFN"})),
}
STATS = {"GGML_SYCL_STATS": "1"}


def pattern(operation: str, types: Sequence[str]) -> str:
    """Return the expression that selects the cases of an operation with one of the types; all cases for no types.

    Those of 128 experts of 4096 rows are left out: each takes minutes on a CPU device.
    """
    small = r"^(?!.*\bn_mats=128\b)"
    return rf"{small}.*\b{TYPE_KEY[operation]}=({'|'.join(types)})\b" if types else small


def count_calls(output: str) -> Counter[str]:
    """Return how often each kernel ran, by "kernel type", as GGML_SYCL_STATS=1 prints it at exit."""
    found = re.findall(r"sycl-stats: (\S+) +(\S+) +(\d+) calls", output)
    return Counter({f"{kernel} {kind}": int(calls) for kernel, kind, calls in found})


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    on_cpu = Path(snakemake.params.toolchain) / "sycl-run"
    compare = [on_cpu, snakemake.input.operations, "test", "-b", "SYCL0"]
    tool_log = snakemake.log.tool
    Path(tool_log).unlink(missing_ok=True)

    def check(program: str) -> int:
        """Checks of a program that calls kernels; it ends with an error if one fails."""
        return run_tool([on_cpu, program], tool_log, append=True).count(" ok\n")

    def compare_operation(job: tuple[str, str]) -> str:
        name, operation = job
        cases = ["-o", operation, "-p", pattern(operation, snakemake.params.types)]
        return run_tool([*compare, *cases], tool_log, env=STATS | RUNS[name].settings, append=True)

    # each keeps one core busy: it compiles kernels or computes on the device, then computes on the CPU
    left = {name: run.left if snakemake.params.types else frozenset() for name, run in RUNS.items()}
    jobs = [
        (name, operation) for name, run in RUNS.items() for operation in run.operations if operation not in left[name]
    ]
    with ThreadPoolExecutor(snakemake.threads) as pool:
        checks = pool.map(check, snakemake.input.kernels)
        outputs = dict(zip(jobs, pool.map(compare_operation, jobs), strict=True))
        kernels = {Path(program).name: count for program, count in zip(snakemake.input.kernels, checks, strict=True)}
    runs: dict[str, dict[str, Any]] = {}
    for name in RUNS:
        printed = {operation: output for (mode, operation), output in outputs.items() if mode == name}
        passed = {operation: count_passed(output, f"{operation} ({name})") for operation, output in printed.items()}
        calls = sum(map(count_calls, printed.values()), Counter())
        runs[name] = {"passed": passed, "calls": dict(sorted(calls.items()))}
    write_text(snakemake.output.report, json.dumps({"kernels": kernels, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
