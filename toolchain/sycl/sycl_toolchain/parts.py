"""Where the parts of the toolchain are, and what to do when one is missing."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from .errors import ToolchainError

FOLDER = Path(__file__).resolve().parent.parent
LOCK = FOLDER / "requirements.lock"
PRECOMPILED = FOLDER / "precompiled.hpp"
PRELUDE = FOLDER / "device_prelude.hpp"
DEVICE_PASS_SOURCE = FOLDER / "device_pass.cpp"

VENV = Path(os.environ.get("SYCL_VENV") or FOLDER.parents[1] / ".venv-sycl").absolute()
INCLUDE = VENV / "include"
LIBRARIES = VENV / "lib"
DEVICE_PASS = VENV / "bin/sycl-device-pass"

# Debian's clang of this version reads the wheels' headers and embeds files
CLANG = "clang++-22"
# sources without kernels: the compiler of the engine for the CPU, so that both share what ccache holds
HOST_COMPILER = "c++"

LINK = [f"-L{LIBRARIES}", "-lsycl", f"-Wl,-rpath,{LIBRARIES}"]


def require(program: str, package: str) -> str:
    """Return the path of a program.

    Raises
    ------
    ToolchainError
        if it is not installed, with what to install.
    """
    found = shutil.which(program)
    if found is None:
        raise ToolchainError(f"{program} is not on the PATH; install it (Debian: apt install {package})")
    return found


def require_wheels() -> None:
    """Check that the wheels and the device half are there.

    Raises
    ------
    ToolchainError
        if they are not, with the command that makes them.
    """
    if not DEVICE_PASS.exists():
        raise ToolchainError(f"{DEVICE_PASS} is missing; set the toolchain up with: make setup-sycl")


def drivers(count: int) -> list[Path]:
    """Return `count` OpenCL drivers, each of which brings a device: copies of the first, made where they are missing.

    A link would not do: the loader opens a library once, whatever its names are.
    """
    first = LIBRARIES / "libintelocl.so"
    copies = [LIBRARIES / f"libintelocl-{number}.so" for number in range(2, count + 1)]
    for copy in copies:
        if not copy.exists():
            partial = copy.with_suffix(f".{os.getpid()}")
            shutil.copyfile(first, partial)
            partial.rename(copy)
    return [first, *copies]


def runtime_environment(devices: int = 1) -> dict[str, str]:
    """Return the variables with which a SYCL program finds the wheels' libraries and their OpenCL CPU devices."""
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {
        "LD_LIBRARY_PATH": f"{LIBRARIES}:{inherited}" if inherited else str(LIBRARIES),
        "OCL_ICD_FILENAMES": ":".join(str(driver) for driver in drivers(devices)),
        # no other OpenCL device of this machine
        "OCL_ICD_VENDORS": str(VENV / "etc/OpenCL/vendors"),
        "ONEAPI_DEVICE_SELECTOR": "opencl:cpu",
        # the engine's SYCL backend takes GPUs only, unless told otherwise
        "GGML_SYCL_ALLOW_CPU": "1",
        # nor do its ESIMD kernels run elsewhere
        "GGML_SYCL_ENABLE_ESIMD": "0",
    }


def fingerprint(clang: str) -> str:
    """Return a hash of all that makes an object file beside its sources and options: this folder, the wheels, clang."""
    digest = hashlib.sha256()
    for path in (LOCK, PRECOMPILED, PRELUDE, DEVICE_PASS_SOURCE, *sorted((FOLDER / "sycl_toolchain").glob("*.py"))):
        digest.update(path.read_bytes())
    digest.update(subprocess.run([clang, "--version"], capture_output=True, check=True).stdout)
    return digest.hexdigest()
