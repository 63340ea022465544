"""Plant faults in the kernels of a backend one by one and see whether a test finds each.

usage: dev/run mutate cuda|sycl|vulkan [--first] [NAME ...]   (from the project's folder, after `make test-sycl`,
       `make test-vulkan` or, on a machine with a card, a run with engine.backend cuda; minutes per fault)

The faults stand in tests/BACKEND/mutants.yaml. The tests are programs that call kernels, for CUDA and SYCL, and
test-backend-ops with the backend set in each way that `make test-BACKEND` sets it. With --first a fault is done with
when one of them has found it. The result is results/BACKEND-mutants.json; the exit code is 1 if a fault was missed by
all of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

import test_sycl
import test_vulkan
from phase_twin.backend_ops import OPERATIONS, Run
from phase_twin.engine import SYCL_TESTS
from phase_twin.errors import UserError
from phase_twin.files import write_text
from phase_twin.lavapipe import on_lavapipe

ENGINE = Path("resources/engine")


@dataclass(frozen=True)
class Target:
    """Where a backend is built, and how it is tested; the quickest tests stand first."""

    name: str
    device: str
    build: Path
    runs: dict[str, Run]
    types: tuple[str, ...]
    operations: tuple[str, ...]
    start: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    # expressions of the cases by operation, where each has a process of its own
    single_cases: Callable[[], dict[str, list[str]]] | None = None

    def commands(self, mode: str) -> Iterator[tuple[str, list[str | Path]]]:
        """Operations that the tests compare in a mode, and the command of each process that does it."""
        run, program = self.runs[mode], self.build / "bin/test-backend-ops"
        for operation in self.operations:
            if operation in run.chosen(self.types):
                one = run.cases(operation, self.types)
                for cases in self.single_cases()[operation] if self.single_cases else [one]:
                    yield operation, [program, "test", "-b", self.device, "-o", operation, "-p", cases]

    @property
    def sources(self) -> Path:
        """Folder of the kernels."""
        return ENGINE / f"source/ggml/src/ggml-{self.name}"

    @property
    def report(self) -> Path:
        """Which test has found which fault."""
        return report_of(self.name)


def report_of(backend: str) -> Path:
    """Path of the report on a backend's faults."""
    return Path(f"results/{backend}-mutants.json")


def target_of(backend: str) -> Target:
    """Return what is known of a backend.

    Raises
    ------
    UserError
        if it is none that has faults to plant.
    """
    if backend == "cuda":
        return Target(
            backend,
            "CUDA0",
            ENGINE / "build-card-cuda",
            {"default": Run()},
            ("iq3_a770", "iq4_a770"),
            OPERATIONS,
            kernels=("test-cuda-fusion",),
        )
    if backend == "sycl":
        return Target(
            backend,
            "SYCL0",
            ENGINE / "build-sycl",
            test_sycl.RUNS,
            ("iq3_a770", "iq4_a770", "q5_K"),
            ("MOE_FFN", "MUL_MAT_ID"),
            start=("toolchain/sycl/sycl-run",),
            kernels=("test-fusion-plan", *SYCL_TESTS),
        )
    if backend == "vulkan":
        folder = ENGINE / "build-card-vulkan"
        return Target(
            backend,
            "Vulkan0",
            folder,
            test_vulkan.RUNS,
            test_vulkan.TYPES,
            ("MOE_FFN", "GET_ROWS", "MUL_MAT", "MUL_MAT_ID"),
            # shaders of other types stay as they are
            settings=on_lavapipe() | {"ONLY_SHADERS": "a770"},
            single_cases=cache(
                lambda: test_vulkan.cases_of(folder / "bin/test-backend-ops", test_vulkan.TYPES, "logs/mutate.log")
            ),
        )
    raise UserError(f"which backend? cuda, sycl or vulkan, not {backend!r}")


@dataclass(frozen=True)
class Mutant:
    """A fault: `old` is replaced by `new` in one file, where it stands once."""

    name: str
    file: str
    old: str
    new: str


@contextmanager
def planted(mutant: Mutant, folder: Path) -> Iterator[None]:
    """Change the source in the folder of the kernels, and restore it in any case.

    Raises
    ------
    UserError
        if the text does not stand exactly once: the kernels were changed, and the mutant has to follow.
    """
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise UserError(f"{path}: {mutant.old!r} stands {text.count(mutant.old)} times, not once; mend the mutant")
    try:
        path.write_text(text.replace(mutant.old, mutant.new))
        yield
    finally:
        path.write_text(text)


def passes(target: Target, command: list[str | Path], env: dict[str, str]) -> bool:
    """Whether a test program ends well; crashes and hangs are failures too."""
    surroundings = os.environ | target.settings | env
    try:
        done = subprocess.run([*target.start, *command], env=surroundings, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def build(target: Target, *programs: str) -> None:
    """Build programs of the engine."""
    command = ["cmake", "--build", target.build, "-j", str(os.cpu_count()), "--target", *programs]
    done = subprocess.run(command, env=os.environ | target.settings, capture_output=True)
    if done.returncode != 0:
        raise UserError(f"the mutant does not compile:\n{done.stdout.decode()[-2000:]}")


def caught_by(target: Target, first: bool) -> dict[str, str]:
    """Build the tests and name the first that fails of those that call kernels, and in each mode of the backend."""
    found = {}
    bin_folder = target.build / "bin"
    for program in target.kernels:
        build(target, program)
        found["kernels"] = "" if passes(target, [bin_folder / program], {"TEST_STOP_AT_FIRST": "1"}) else program
        if found["kernels"]:
            break
    if first and any(found.values()):
        return found
    build(target, "test-backend-ops")
    for mode, run in target.runs.items():
        commands = target.commands(mode)
        found[mode] = next((name for name, command in commands if not passes(target, command, run.settings)), "")
        if first and found[mode]:
            break
    return found


def main() -> int:
    """Try all mutants of a backend, or those named on the command line, and write the report."""
    target = target_of(sys.argv[1] if len(sys.argv) > 1 else "")
    mutants = [Mutant(**entry) for entry in yaml.safe_load(Path(f"tests/{target.name}/mutants.yaml").read_text())]
    first, names = "--first" in sys.argv, [name for name in sys.argv[2:] if name != "--first"]
    rows = []
    for mutant in (mutant for mutant in mutants if not names or mutant.name in names):
        with planted(mutant, target.sources):
            found = caught_by(target, first)
        where = "; ".join(f"{tests}: {test}" for tests, test in found.items() if test)
        print(f"{mutant.name:56} {where or 'MISSED'}", flush=True)
        rows.append({"mutant": mutant.name, "file": mutant.file, "caught_by": found})
        write_text(target.report, json.dumps(rows, indent=2) + "\n")
    build(target, *target.kernels, "test-backend-ops")
    return int(not all(any(row["caught_by"].values()) for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
