"""The compiler driver: an ordinary C++ compiler until -fsycl is among the options.

A source file with kernels is compiled twice. The device half makes SPIR-V of the kernels and a header that describes
them; the host half is clang on the same source, which reads that header and, from a second one, embeds the SPIR-V.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import parts
from .command_line import Compilation, compiles, link_options, parse_compilation, uses_sycl
from .dependencies import format_dependencies, merge_dependencies, parse_dependencies
from .precompiled import FOLDER, Header, precompiled_header
from .registration import read_modules, registration_code

# what icpx defines: the engine asks for it, and both halves must read the same code
DEFINITIONS = ("-D__INTEL_LLVM_COMPILER=20260200", "-DSYCL_DISABLE_FSYCL_SYCLHPP_WARNING")
HOST_OPTIONS = ("-w", "-Xclang", "-fsycl-is-host", "-D__SYCL_UNNAMED_LAMBDA__", *DEFINITIONS)
DEVICE_OPTIONS = ("-w", DEFINITIONS[1])

# set while ccache runs the driver
INSIDE_CCACHE = "SYCLCC_INSIDE_CCACHE"


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; return the exit status."""
    if not uses_sycl(arguments):
        return replace_process([*ccache(), parts.require(parts.HOST_COMPILER, "g++"), *arguments])
    parts.require_wheels()
    if not compiles(arguments):
        if "-E" in arguments:
            clang = parts.require(parts.CLANG, "clang-22")
            return replace_process([clang, *HOST_OPTIONS, *link_options(arguments), "-isystem", str(parts.INCLUDE)])
        return replace_process([parts.require(parts.HOST_COMPILER, "g++"), *link_options(arguments), *parts.LINK])
    task = parse_compilation(arguments)
    clang = parts.require(parts.CLANG, "clang-22")
    # without a dependency file ccache would look at what the host half reads only
    if task.dependency_file and ccache() and INSIDE_CCACHE not in os.environ:
        os.environ.update(ccache_environment(clang))
        return replace_process([*ccache(), str(parts.FOLDER / "syclcc"), *arguments])
    return compile_source(task, clang)


def replace_process(command: Sequence[str]) -> int:
    """Go on as another program."""
    os.execv(command[0], list(command))


def ccache() -> list[str]:
    """Return the start of a command that ccache serves; empty where it is not installed."""
    found = shutil.which("ccache")
    return [found] if found else []


def ccache_environment(clang: str) -> dict[str, str]:
    """Return the variables with which ccache serves the driver.

    ccache knows nothing of the device half. It does not need to in its depend mode: an object file is looked up by the
    options and the content of all files in the dependency file, where the driver names those of both halves.
    """
    return {
        INSIDE_CCACHE: "1",
        "CCACHE_DEPEND": "1",
        "CCACHE_COMPILERTYPE": "clang",
        "CCACHE_COMPILERCHECK": f"string:{parts.fingerprint(clang)}",
    }


def compile_source(task: Compilation, clang: str) -> int:
    """Compile one source file, device half and host half; return the exit status."""
    with tempfile.TemporaryDirectory(prefix="syclcc-") as name:
        folder = Path(name)
        status = subprocess.call(device_command(task, folder), env=os.environ | parts.runtime_environment())
        if status:
            return status
        (folder / "registration.h").write_text(registration_code(read_modules(folder)))
        header = precompiled_header(clang, host_options(task))
        status = subprocess.call(host_command(task, folder, clang, header))
        if status == 0 and task.dependency_file:
            read = [folder / "host.d", folder / "device.d", *([header.dependencies] if header else [])]
            lists = [parse_dependencies(file.read_text()) for file in read]
            # the toolchain's own files are not among them: ccache has their fingerprint
            files = merge_dependencies(lists, ignored=(folder, parts.VENV, parts.FOLDER))
            task.dependency_file.write_text(format_dependencies(task.dependency_target, files))
        return status


def device_command(task: Compilation, folder: Path) -> list[str]:
    """Return the command of the device half, which leaves modules and headers in `folder`."""
    command = [parts.DEVICE_PASS, folder, parts.PRELUDE, FOLDER, task.source]
    return [*map(str, command), *task.device_options, *DEVICE_OPTIONS, f"-I{parts.INCLUDE}"]


def host_options(task: Compilation) -> list[str]:
    """Return how the host half reads and compiles, which is how the precompiled header must have been made."""
    return [*task.host_options, *HOST_OPTIONS, "-isystem", str(parts.INCLUDE)]


def host_command(task: Compilation, folder: Path, clang: str, header: Header | None) -> list[str]:
    """Return the command of the host half, which reads the headers in `folder` and makes the object file."""
    headers = ["-include-pch", str(header.file)] if header else []
    headers += ["-include", str(folder / "integration.h"), "-include", str(folder / "registration.h")]
    dependencies = ["-MD", "-MF", str(folder / "host.d")]
    return [clang, *host_options(task), *headers, *dependencies, "-c", str(task.source), "-o", str(task.object)]
