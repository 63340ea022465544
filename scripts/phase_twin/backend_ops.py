"""llama.cpp's comparison of a backend with that for CPUs, test-backend-ops: which cases, and what it says."""

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError
from .rule import run_tool

# the operations whose kernels the patches add or change, and the name that their cases have for the type of the weights
TYPE_KEY = {"MUL_MAT": "type_a", "MUL_MAT_ID": "type_a", "GET_ROWS": "type", "MOE_FFN": "type_gate_up"}
OPERATIONS = tuple(TYPE_KEY)


# cases of 128 experts of 4096 rows take minutes each on a CPU device
SLOW = r"\bn_mats=128\b"


def pattern(operation: str, types: Sequence[str], left_out: str = SLOW) -> str:
    """Return the expression that selects the cases of an operation with one of the types; all cases for no types.

    Those that match `left_out` are not among them.
    """
    others = rf"^(?!.*{left_out})"
    return rf"{others}.*\b{TYPE_KEY[operation]}=({'|'.join(types)})\b" if types else others


@dataclass(frozen=True)
class Run:
    """How a backend is set, and the operations that are compared then."""

    settings: dict[str, str] = field(default_factory=dict)
    operations: tuple[str, ...] = OPERATIONS
    # which of them are left to the comparison of all types: runs of nano take the same way
    left: frozenset[str] = frozenset()
    # cases of the others that are left out
    left_out: str = SLOW

    def chosen(self, types: Sequence[str]) -> list[str]:
        """Those that are compared for these types, all for none."""
        return [operation for operation in self.operations if not (types and operation in self.left)]

    def cases(self, operation: str, types: Sequence[str]) -> str:
        """Return the expression of the cases of an operation."""
        return pattern(operation, types, self.left_out)


def count_passed(output: str, what: str) -> int:
    """Return how many cases test-backend-ops passed, in one or several runs.

    Raises
    ------
    UserError
        if some failed, or none ran: a filter that matches nothing prints OK too.
    """
    counts = re.findall(r"(\d+)/(\d+) tests passed", output)
    passed, total = (sum(map(int, numbers)) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    if total == 0 or passed != total:
        raise UserError(f"test-backend-ops {what}: {passed} of {total} cases passed")
    return passed


def compare(
    command: Sequence[str | Path],
    jobs: Iterable[tuple[str, str, dict[str, str], str]],
    threads: int,
    tool_log: str,
) -> dict[str, dict[str, str]]:
    """Run cases, several operations at once, for each keeps one core busy; return run -> operation -> output.

    Parameters
    ----------
    command
        that compares, without the cases.
    jobs
        name of the run, operation, environment and expression of the cases.
    """

    def one(job: tuple[str, str, dict[str, str], str]) -> str:
        _, operation, env, cases = job
        return run_tool([*command, "-o", operation, "-p", cases], tool_log, env=env, append=True)

    jobs = list(jobs)
    found: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for (name, operation, *_), output in zip(jobs, pool.map(one, jobs), strict=True):
            outputs = found.setdefault(name, {})
            outputs[operation] = outputs.get(operation, "") + output
    return found


def single_cases(program: str | Path, operation: str, cases: str, tool_log: str) -> list[str]:
    """Return an expression for each of the cases that one selects."""
    # it lists such graphs nowhere else than where it computes them
    listed = run_tool([program, "test", "-b", "CPU", "-o", operation, "-p", cases], tool_log, append=True)
    return [f"^{re.escape(case)}$" for case in re.findall(rf"^ *{operation}\((.*)\): ", listed, re.MULTILINE)]


def passed(outputs: dict[str, str], name: str) -> dict[str, int]:
    """Cases that passed in a run, by operation; raises as `count_passed` does."""
    return {operation: count_passed(output, f"{operation} ({name})") for operation, output in outputs.items()}
