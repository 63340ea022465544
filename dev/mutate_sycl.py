"""Plant faults in the SYCL kernels one by one and see whether a test finds each.

usage: dev/run mutate_sycl [--first] [NAME ...]   (from the project's folder, after `make test-sycl`; minutes per fault)

The faults stand in tests/sycl/mutants.yaml. The tests are test-fusion-plan, which needs no device, test-sycl-fusion and
test-sycl-experts, which call the kernels, and test-backend-ops with reordering and fusion on, without fusion, and with
both off. With --first a fault is done with when one of them has found it. The result is results/sycl-mutants.json; the
exit code is 1 if a fault was missed by all of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from phase_twin.errors import UserError
from phase_twin.files import write_text
from test_sycl import RUNS, TYPE_KEY

ENGINE = Path("resources/engine")
RUN = Path("toolchain/sycl/sycl-run")
MUTANTS = Path("tests/sycl/mutants.yaml")
REPORT = Path("results/sycl-mutants.json")
SOURCES = Path("ggml/src/ggml-sycl")
TYPES = ("iq3_a770", "iq4_a770", "q5_K")

# quickest first
KERNELS = ("test-fusion-plan", "test-sycl-fusion", "test-sycl-experts")

# the operations compared, shortest first, with the name that their cases have for the type of the weights
OPERATIONS = {operation: TYPE_KEY[operation] for operation in ("MOE_FFN", "MUL_MAT_ID")}

# how the backend is set in each mode
MODES = {name: run.settings for name, run in RUNS.items()}


@dataclass(frozen=True)
class Mutant:
    """A fault: `old` is replaced by `new` in one file, where it stands once."""

    name: str
    file: str
    old: str
    new: str


@contextmanager
def planted(mutant: Mutant, tree: Path) -> Iterator[None]:
    """Change the source, and restore it in any case.

    Raises
    ------
    UserError
        if the text does not stand exactly once: the kernels were changed, and the mutant has to follow.
    """
    path = tree / SOURCES / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise UserError(f"{path}: {mutant.old!r} stands {text.count(mutant.old)} times, not once; mend the mutant")
    try:
        path.write_text(text.replace(mutant.old, mutant.new))
        yield
    finally:
        path.write_text(text)


def passes(command: list[str | Path], env: dict[str, str]) -> bool:
    """Whether a test program ends well; crashes and hangs are failures too."""
    try:
        done = subprocess.run([RUN, *command], env={**os.environ, **env}, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def build(folder: Path, *targets: str) -> None:
    """Build programs of the engine."""
    done = subprocess.run(
        ["cmake", "--build", folder, "-j", str(os.cpu_count()), "--target", *targets], capture_output=True
    )
    if done.returncode != 0:
        raise UserError(f"the mutant does not compile:\n{done.stdout.decode()[-2000:]}")


def caught_by(folder: Path, first: bool) -> dict[str, str]:
    """Build the tests and name the first that fails of those that call kernels, and in each mode of the backend."""
    found = {"kernels": ""}
    for program in KERNELS:
        build(folder, program)
        if not passes([folder / "bin" / program], {}):
            found["kernels"] = program
            break
    if first and found["kernels"]:
        return found
    build(folder, "test-backend-ops")
    for mode, env in MODES.items():
        found[mode] = ""
        for operation, key in OPERATIONS.items():
            cases = ["-o", operation, "-p", f"{key}=({'|'.join(TYPES)}),"]
            if not passes([folder / "bin/test-backend-ops", "test", "-b", "SYCL0", *cases], env):
                found[mode] = operation
                break
        if first and found[mode]:
            break
    return found


def main() -> int:
    """Try all mutants, or those named on the command line, and write the report."""
    mutants = [Mutant(**entry) for entry in yaml.safe_load(MUTANTS.read_text())]
    first, names = "--first" in sys.argv, [name for name in sys.argv[1:] if name != "--first"]
    chosen = [mutant for mutant in mutants if not names or mutant.name in names]
    tree, folder = ENGINE / "source", ENGINE / "build-sycl"
    rows = []
    for mutant in chosen:
        with planted(mutant, tree):
            found = caught_by(folder, first)
        where = "; ".join(f"{tests}: {test}" for tests, test in found.items() if test)
        print(f"{mutant.name:56} {where or 'MISSED'}", flush=True)
        rows.append({"mutant": mutant.name, "file": mutant.file, "caught_by": found})
        write_text(REPORT, json.dumps(rows, indent=2) + "\n")
    build(folder, *KERNELS, "test-backend-ops")
    return int(not all(any(row["caught_by"].values()) for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
