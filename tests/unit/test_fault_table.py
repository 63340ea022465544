"""docs/faults.md says what the tests try: every row's tests exist, and every test of a fault has a row."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest

from small_run import KILLS, ROOT

KILL_TEST = "faults/test_kills.py::test_kills_change_nothing"
ROW = re.compile(r"^\| ([^|]+) \| (\d+) \| (\d+) \| (\d+) \| (.+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, int, int, int, list[str]]]:
    found = ROW.findall((ROOT / "docs/faults.md").read_text(encoding="utf-8"))
    return [(fault, *map(int, counts), re.findall(r"`([^`]+)`", tests)) for fault, *counts, tests in found]


def test_every_test_of_a_fault_has_a_row(rows):
    named = {test for *_, tests in rows for test in tests}
    for path in (ROOT / "tests/faults").glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert f"faults/{path.name}::{node.name}" in named


def test_every_row_counts_what_its_tests_try(rows):
    files = {f"tests/{test.split('::')[0]}" for *_, tests in rows for test in tests}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", *sorted(files)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    cases = Counter(re.sub(r"^tests/|\[.*", "", line) for line in listed.splitlines() if "::" in line)
    cases[KILL_TEST] *= KILLS
    for fault, tried, survived, lost, tests in rows:
        assert all(cases[test] for test in tests), fault
        assert (tried, survived, lost) == (sum(cases[test] for test in tests),) * 2 + (0,), fault
