"""Build ggml once per instruction set and run the tests of IQ3_A770: on this CPU where it can, for ARM under qemu."""

import logging
import platform
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine import BAR, require_compiler
from phase_twin.backend_ops import count_passed
from phase_twin.engine import ENVIRONMENT
from phase_twin.errors import UserError
from phase_twin.results import write_result
from phase_twin.rule import run_rule, run_tool
from test_engine import OPERATIONS, TYPES

log = logging.getLogger("phase_twin")

# those of the engine's tests that need ggml alone
PROGRAMS = ("test-quantize-fns", "test-iq3-a770", "test-iq3-a770-mul", "test-iq3-a770-graph")
OPERATIONS_PROGRAM = "test-backend-ops"

# options of ggml, and what /proc/cpuinfo says of a CPU that runs what they allow
OPTIONS = {
    "SSE42": ("sse4_2",),
    "AVX": ("avx",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX2": ("avx2",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_VBMI": ("avx512vbmi",),
}
AVX2 = ("SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2")
AVX512 = (*AVX2, "AVX512")
AVX512_VNNI = (*AVX512, "AVX512_VNNI")
OPTIMIZED = "-O3 -DNDEBUG"
# what is not suppressed ends the test by halt_on_error; without recovery, suppressions would not count
SANITIZED = "-O1 -g1 -fsanitize=address,undefined -fsanitize-recover=undefined"
SANITIZER_OPTIONS = "halt_on_error=1:print_stacktrace=1:suppressions={path}"


@dataclass(frozen=True)
class InstructionSet:
    """How one set is forced on the compiler, and what can run it."""

    # sets that share all but flags for ggml's CPU backend share a build folder: the rest is compiled once
    folder: str
    flags: tuple[str, ...]
    cpuinfo: frozenset[str] = frozenset()
    emulator: tuple[str, ...] = ()

    def missing(self, cpu: Collection[str]) -> list[str]:
        """Return what a CPU with these flags in /proc/cpuinfo lacks to run it."""
        return sorted(self.cpuinfo - set(cpu))


def x86(*options: str, cpu_flags: str = "", cpuinfo: tuple[str, ...] = (), sanitize: bool = False) -> InstructionSet:
    """Return the set of ggml's options that are named, all others off, and of further compiler flags."""
    flags = [f"-DGGML_{option}={'ON' if option in options else 'OFF'}" for option in OPTIONS]
    flags += [f"-DCPU_FLAGS={cpu_flags}"]
    flags += [f"-DCMAKE_{language}_FLAGS_RELEASE={SANITIZED if sanitize else OPTIMIZED}" for language in ("C", "CXX")]
    needed = [flag for option in options for flag in OPTIONS[option]]
    folder = "x86-sanitized" if sanitize else "x86"
    return InstructionSet(folder, tuple(flags), frozenset([*needed, *cpuinfo]))


def arm(march: str, cpu: str) -> InstructionSet:
    """Return an architecture as the compiler names it, and a CPU without more that qemu knows."""
    compilers = ("-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc", "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++")
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    flags = (*compilers, *system, f"-DGGML_CPU_ARM_ARCH={march}")
    return InstructionSet("aarch64", flags, emulator=("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu))


SETS = {
    "x86-64": x86(),
    "AVX2": x86(*AVX2),
    "AVX2, AVX-VNNI": x86(*AVX2, "AVX_VNNI"),
    # the code for AVX-VNNI with the same instructions in the encoding of AVX-512, which more CPUs have
    "AVX2, VNNI of 256 bits": x86(
        *AVX2, cpu_flags="-mavx512vl;-mavx512vnni", cpuinfo=("avx512f", "avx512vl", "avx512_vnni")
    ),
    "AVX-512": x86(*AVX512),
    "AVX-512, VNNI": x86(*AVX512_VNNI),
    "AVX-512, VNNI, VBMI": x86(*AVX512_VNNI, "AVX512_VBMI"),
    "AVX2, sanitized": x86(*AVX2, sanitize=True),
    "AVX-512, VNNI, VBMI, sanitized": x86(*AVX512_VNNI, "AVX512_VBMI", sanitize=True),
    "ARMv8": arm("armv8-a", "cortex-a72"),
    "ARMv8.2, dotprod": arm("armv8.2-a+dotprod", "cortex-a76"),
}


def require_machine() -> None:
    """Raise a UserError where the sets cannot be built or run."""
    require_compiler("cpu")
    if platform.machine() != "x86_64":
        raise UserError(f"the instruction sets are built on x86-64, this is {platform.machine()}: run it there")
    for program, package in (("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")):
        if shutil.which(program) is None:
            raise UserError(f"{program} is not on the PATH; install it (Debian, Ubuntu: apt install {package})")


def cpu_flags(cpuinfo: str) -> set[str]:
    """Return the flags of the first CPU in the text of /proc/cpuinfo."""
    found = re.search(r"^flags\s*: (.*)", cpuinfo, re.MULTILINE)
    return set(found[1].split()) if found else set()


def count_shapes(output: str, what: str) -> int:
    """Return how many shapes a test of ours passed.

    Raises
    ------
    UserError
        if some failed, or none ran.
    """
    found = re.search(r"^(\d+) shapes, (?:\d+ of them packed(?: too)?, )?(\d+) failed", output, re.MULTILINE)
    shapes, failed = (int(found[1]), int(found[2])) if found else (0, 0)
    if shapes == 0 or failed > 0:
        raise UserError(f"{what}: {failed} of {shapes} shapes failed")
    return shapes


def forced_flags(compile_commands: str) -> list[str]:
    """Return what the compiler was told of instructions and sanitizers for the kernels, from compile_commands.json."""
    command = re.search(r'"command": "(.*ggml-cpu/iq3-a770\.cpp)"', compile_commands)
    assert command is not None
    return re.findall(r" (-m\S+|-fsanitize=\S+)", command[1])


def build(
    instruction_set: InstructionSet, project: Path, tree: Path, folder: Path, threads: int, tool_log: str
) -> None:
    """Compile the tests into `folder`/bin."""
    programs = (*PROGRAMS, OPERATIONS_PROGRAM)
    common = [f"-DENGINE={tree.resolve()}", f"-DTESTS={';'.join(programs)}", "-DBUILD_SHARED_LIBS=OFF"]
    common += ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=OFF"]
    env = {"CCACHE_BASEDIR": str(Path.cwd()), "CCACHE_NOHASHDIR": "1"}
    configure = ["cmake", "-S", project, "-B", folder, "-G", "Ninja", *common, *instruction_set.flags]
    run_tool(configure, tool_log, env=env, append=True)
    command = ["cmake", "--build", folder, "-j", str(threads), "--target", *programs]
    run_tool(command, tool_log, env=env, progress=BAR, label="build", append=True)


def test(instruction_set: InstructionSet, programs: Path, suppressions: str, tool_log: str) -> dict[str, int | str]:
    """Return how many cases each test passed; of those that do not say, that they did."""
    env = ENVIRONMENT | {"UBSAN_OPTIONS": SANITIZER_OPTIONS.format(path=suppressions)}
    passed: dict[str, int | str] = {}
    for name in PROGRAMS:
        output = run_tool([*instruction_set.emulator, programs / name], tool_log, env=env, append=True)
        passed[name] = count_shapes(output, name) if "shapes" in output else "passed"
    for operation in OPERATIONS:
        compare = [programs / OPERATIONS_PROGRAM, "test", "-b", "CPU", "-o", operation, "-p", TYPES]
        output = run_tool([*instruction_set.emulator, *compare], tool_log, env=env, append=True)
        passed[f"{OPERATIONS_PROGRAM} {operation}"] = count_passed(output, operation)
    return passed


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    require_machine()
    here = cpu_flags(Path("/proc/cpuinfo").read_text())
    project, tree = Path(snakemake.input.project).parent, Path(snakemake.params.tree)
    tool_log = snakemake.log.tool
    Path(tool_log).unlink(missing_ok=True)
    report: dict[str, Any] = {}
    for name, instruction_set in SETS.items():
        log.info("instruction set: %s", name)
        folder = Path(snakemake.params.build) / instruction_set.folder
        try:
            build(instruction_set, project, tree, folder, snakemake.threads, tool_log)
            report[name] = {"compiler": forced_flags((folder / "compile_commands.json").read_text())}
            if missing := instruction_set.missing(here):
                report[name]["built only"] = f"this CPU has no {', '.join(missing)}"
                continue
            report[name]["emulator"] = list(instruction_set.emulator)
            report[name]["passed"] = test(instruction_set, folder / "bin", snakemake.input.suppressions, tool_log)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    write_result(snakemake.output.report, report, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
