"""Run upstream's own tests of the new types, and the loader's tests, on the engine that was built."""

import json
from pathlib import Path
from typing import Any

from phase_twin.backend_ops import count_passed
from phase_twin.engine import TESTS
from phase_twin.files import write_text
from phase_twin.rule import run_rule, run_tool

OPERATIONS = ("MUL_MAT", "MUL_MAT_ID", "GET_ROWS")
TYPES = "iq[34]_a770"


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    programs = {Path(path).name: path for path in snakemake.input.programs}
    tool_log = snakemake.log.tool
    report: dict[str, Any] = {}
    Path(tool_log).unlink(missing_ok=True)
    for name in (name for name in TESTS if name != "test-backend-ops"):
        run_tool([programs[name]], tool_log, append=True)
        report[name] = "passed"
    for operation in OPERATIONS:
        command = [programs["test-backend-ops"], "test", "-b", "CPU", "-o", operation, "-p", TYPES]
        output = run_tool(command, tool_log, append=True)
        report[f"test-backend-ops {operation}"] = count_passed(output, operation)
    write_text(snakemake.output.report, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
