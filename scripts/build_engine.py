"""Configure and build the patched llama.cpp: only the programs in use, with ccache where it is installed."""

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.backends import BACKENDS
from phase_twin.errors import UserError
from phase_twin.files import write_text
from phase_twin.rule import run_rule, run_tool

log = logging.getLogger("phase_twin")

# nothing is fetched at configure or build time: no UI (two flags), no curl, no OpenSSL
OFFLINE = (
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
# static programs can be moved and need no library path
LAYOUT = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
)
# keeps what it compiled
GLSLC = Path(__file__).resolve().parent.parent / "toolchain/vulkan/glslc"
BAR = r"\[(?P<done>\d+)/(?P<total>\d+)\]"
ONEAPI = (
    "install Intel's oneAPI Base Toolkit (or intel-oneapi-compiler-dpcpp-cpp and intel-oneapi-mkl-devel) and run "
    "`source /opt/intel/oneapi/setvars.sh` in this shell: the programs need it when they run, too"
)
# what shaders gain from a newer glslc: extension -> what for. Debian 12's knows none of these, Debian 13's all
SHADER_EXTENSIONS = {
    "GL_KHR_cooperative_matrix": "matrix units",
    "GL_NV_cooperative_matrix2": "matrix units of NVIDIA",
    "GL_EXT_integer_dot_product": "integer dot products",
}
VULKAN_HEADERS = {"vulkan/vulkan.hpp": "libvulkan-dev", "spirv/unified1/spirv.hpp": "spirv-headers"}


def require_oneapi() -> None:
    """Raise a UserError that names what of oneAPI is missing here, and what to do."""
    missing = [f"{program} is not on the PATH" for program in ("icpx", "icx") if shutil.which(program) is None]
    if not (os.environ.get("MKLROOT") or os.environ.get("MKL_DIR")):
        missing.append("neither MKLROOT nor MKL_DIR is set")
    if missing:
        raise UserError(f"engine.backend is sycl, but {', '.join(missing)}; {ONEAPI}")


def require_cxx() -> None:
    """Raise a UserError if there are no C and C++ compilers of the machine's own."""
    for variable, program, package in (("CXX", "c++", "g++"), ("CC", "cc", "gcc")):
        # cmake takes these first
        if not (named := shlex.split(os.environ.get(variable, ""))):
            require_program(program, package)
        elif shutil.which(named[0]) is None:
            raise UserError(f"{variable} is {named[0]}, which is not on the PATH; unset {variable}, or install it")


def require_nvcc() -> None:
    """Raise a UserError if there is no compiler for CUDA."""
    require_cxx()
    # as cmake looks for it
    folders = f"{os.environ.get('PATH', os.defpath)}:{os.environ.get('CUDA_PATH', '/usr/local/cuda')}/bin"
    if shutil.which(os.environ.get("CUDACXX") or "nvcc", path=folders) is None:
        raise UserError(
            "engine.backend is cuda, but there is no nvcc; install NVIDIA's CUDA toolkit (or the package "
            "nvidia-cuda-toolkit), or name it: export CUDACXX=/usr/local/cuda/bin/nvcc"
        )


def require_glslc() -> None:
    """Raise a UserError if the compiler of shaders, or a header, is missing."""
    require_cxx()
    missing = [] if shutil.which(os.environ.get("GLSLC") or "glslc") else ["glslc is not on the PATH (package glslc)"]
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if sdk := os.environ.get("VULKAN_SDK"):
        compiler += ["-I", f"{sdk}/include"]
    for header, package in VULKAN_HEADERS.items():
        command = [*compiler, "-std=c++17", "-E", "-x", "c++", "-"]
        if subprocess.run(command, input=f"#include <{header}>\n", capture_output=True, text=True).returncode != 0:
            missing.append(f"there is no {header} (package {package})")
    if missing:
        raise UserError(f"engine.backend is vulkan, but {', '.join(missing)}; the packages are those of Debian, Ubuntu")


def shader_compiler() -> dict[str, Any]:
    """Return the version of glslc, and what shaders cannot use of cards for want of a newer one."""
    version = subprocess.run([GLSLC, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    lacking = []
    for extension, use in SHADER_EXTENSIONS.items():
        shader = f"#version 460\n#extension {extension} : require\nvoid main() {{}}\n"
        command = [GLSLC, "-fshader-stage=compute", "--target-env=vulkan1.3", "-o", os.devnull, "-"]
        if subprocess.run(command, input=shader, capture_output=True, text=True).returncode != 0:
            lacking.append(use)
    return {"glslc": version, "lacks": lacking}


def require_program(program: str, package: str) -> None:
    """Raise a UserError if a program is not there."""
    if shutil.which(program) is None:
        raise UserError(f"{program} is not on the PATH; install it (Debian, Ubuntu: apt install {package})")


COMPILERS = {"cpu": require_cxx, "sycl": require_oneapi, "cuda": require_nvcc, "vulkan": require_glslc}


def require_compiler(backend: str) -> None:
    """Raise a UserError if something is missing here that a build needs, with what to install."""
    COMPILERS[backend]()
    require_program("cmake", "cmake")
    require_program("ninja", "ninja-build")


def compiler_of(build: Path) -> str:
    """Return the version line of the C++ compiler that cmake took; it remembers that of an earlier build."""
    found = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", (build / "CMakeCache.txt").read_text(), re.MULTILINE)
    assert found is not None
    version = subprocess.run([found[1], "--version"], capture_output=True, text=True, check=True)
    return version.stdout.splitlines()[0]


def version_flags(manifest: dict[str, Any]) -> list[str]:
    """Return the cmake flags that name a build after the base and the patches."""
    # without these the hash of an outer repository is taken
    number = re.sub(r"\D", "", manifest["tag"])
    commit = f"{manifest['commit'][:9]}-{manifest['patch_sha256'][:8]}"
    return [f"-DLLAMA_BUILD_NUMBER={number}", f"-DLLAMA_BUILD_COMMIT={commit}"]


def has_nvidia_card() -> bool:
    """Whether the driver lists a card of NVIDIA here."""
    return (
        bool(shutil.which("nvidia-smi")) and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


def configure_flags(backend: str, manifest: dict[str, Any], f16: bool = False) -> list[str]:
    """Return the cmake -D flags for a backend."""
    # the last value given to cmake holds
    flags = [*LAYOUT, *OFFLINE, *BACKENDS[backend].flags, *version_flags(manifest)]
    if backend == "sycl":
        # said either way, for cmake remembers the value of an earlier build
        flags += [f"-DGGML_SYCL_F16={'ON' if f16 else 'OFF'}"]
    if backend == "cuda":
        # for this machine's cards; without one, for all that are common, as the node that measures has another
        flags += [f"-DGGML_NATIVE={'ON' if has_nvidia_card() else 'OFF'}"]
    if backend == "vulkan":
        flags += [f"-DVulkan_GLSLC_EXECUTABLE={GLSLC}"]
    if shutil.which("ccache"):
        flags += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
        flags += ["-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache"] if backend == "cuda" else []
    return flags


def forget_other_shaders(build: Path, shaders: dict[str, Any]) -> None:
    """Remove a build that another glslc began: cmake remembers what that one could do."""
    made_by = build / "shaders.json"
    told = json.dumps(shaders) + "\n"
    if build.exists() and not (made_by.exists() and made_by.read_text() == told):
        log.info("%s: begun with another glslc; built anew", build)
        shutil.rmtree(build)
    build.mkdir(parents=True, exist_ok=True)
    write_text(made_by, told)


def copy_libraries(source: Path, target: Path) -> None:
    """Put the shared libraries of a build beside its programs, which look for them there."""
    for old in target.glob("lib*.so*"):
        old.unlink()
    for library in source.glob("lib*.so*"):
        shutil.copy2(library, target / library.name, follow_symlinks=False)


def compile_programs(
    tree: Path, build: Path, flags: Sequence[str], programs: Sequence[Path], threads: int, tool_log: str
) -> None:
    """Build the programs in `build` and copy them to where they are named; their names are those of the targets."""
    # cmake refuses a build that was made where the project's folder was before
    cache = build / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={tree.resolve()}\n" not in cache.read_text():
        shutil.rmtree(build)
    # paths relative to the tree let ccache serve any checkout
    env = {"CCACHE_BASEDIR": str(tree.resolve().parent), "CCACHE_NOHASHDIR": "1"}
    run_tool(["cmake", "-S", tree, "-B", build, "-G", "Ninja", *flags], tool_log, env=env)
    names = [program.name for program in programs]
    command = ["cmake", "--build", build, "-j", str(threads), "--target", *names]
    run_tool(command, tool_log, env=env, progress=BAR, label="build", append=True)
    for program in programs:
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / "bin" / program.name, program)


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    manifest = json.loads(Path(snakemake.input.manifest).read_text())
    backend = snakemake.params.backend
    require_compiler(backend)
    tree, build = Path(snakemake.params.tree), Path(snakemake.params.build)
    flags = configure_flags(backend, manifest, snakemake.params.get("f16", False))
    programs = [Path(program) for program in snakemake.output.programs]
    shaders = shader_compiler() if backend == "vulkan" else None
    if shaders:
        forget_other_shaders(build, shaders)
    compile_programs(tree, build, flags, programs, snakemake.threads, snakemake.log.tool)
    if "-DBUILD_SHARED_LIBS=ON" in flags:
        copy_libraries(build / "bin", programs[0].parent)
    facts = {**manifest, "backend": backend, "compiler": compiler_of(build), "flags": flags}
    if shaders:
        facts["shaders"] = shaders
        lacks = ", ".join(shaders["lacks"]) or "nothing"
        log.info("%s compiled the shaders; of what cards have it lacks: %s", shaders["glslc"], lacks)
    write_text(snakemake.output.facts, json.dumps(facts, indent=2) + "\n")
    log.info("built %d programs in %s", len(programs), Path(snakemake.output.facts).parent)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
