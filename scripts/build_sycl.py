"""Build the patched llama.cpp with the SYCL backend, by the compiler in toolchain/sycl, for tests on a CPU device."""

import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from build_engine import LAYOUT, OFFLINE, compile_programs, require_compiler, version_flags
from phase_twin.errors import UserError
from phase_twin.files import write_text
from phase_twin.rule import run_rule

log = logging.getLogger("phase_twin")

# what the compiler of toolchain/sycl has no parts for: oneDNN, Level Zero; and what the tests have no use for: graphs,
# and flash attention, whose kernels take most of the time of a full build
SYCL = (
    "-DGGML_SYCL=ON",
    "-DGGML_SYCL_DNN=OFF",
    "-DGGML_SYCL_SUPPORT_LEVEL_ZERO_API=OFF",
    "-DGGML_SYCL_GRAPH=OFF",
    "-DGGML_SYCL_FA=OFF",
    # one of the tests asks it
    "-DLLAMA_BUILD_SERVER=ON",
)


def sycl_flags(toolchain: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the cmake -D flags; all but the backend are those of the engine for the CPU, which shares its objects."""
    # the driver calls ccache itself: it knows how
    flags = [*LAYOUT, *OFFLINE, "-DGGML_NATIVE=ON", *SYCL, *version_flags(manifest)]
    flags += [f"-DCMAKE_CXX_COMPILER={toolchain / 'syclcc'}", f"-DMKL_DIR={toolchain / 'mkl'}"]
    if shutil.which("ccache"):
        flags += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache"]
    return flags


def require_tools(toolchain: Path) -> None:
    """Check that there is what a build needs, and that a file with a kernel compiles.

    Raises
    ------
    UserError
        with the driver's words on what is missing.
    """
    require_compiler("cpu")
    command = [toolchain.resolve() / "syclcc", "-fsycl", "-x", "c++", "-E", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(done.stderr.strip())


def forget_other_toolchain(build: Path, sources: Iterable[str]) -> str:
    """Remove a build folder that another version of the toolchain made: ninja knows only its command lines.

    Returns
    -------
    str
        a hash of the toolchain's sources, to be noted when the build is done.
    """
    digest = hashlib.sha256(b"".join(Path(path).read_bytes() for path in sorted(sources))).hexdigest()
    note = build / "toolchain.sha256"
    if build.exists() and not (note.exists() and note.read_text() == digest):
        log.info("the toolchain has changed: building anew")
        shutil.rmtree(build)
    build.mkdir(parents=True, exist_ok=True)
    note.write_text(digest)
    return digest


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    manifest = json.loads(Path(snakemake.input.manifest).read_text())
    toolchain = Path(snakemake.params.toolchain).resolve()
    require_tools(toolchain)
    tree, build = Path(snakemake.params.tree), Path(snakemake.params.build)
    digest = forget_other_toolchain(build, snakemake.input.toolchain)
    flags = [*sycl_flags(toolchain, manifest), *snakemake.params.flags]
    programs = [Path(program) for program in snakemake.output.programs]
    compile_programs(tree, build, flags, programs, snakemake.threads, snakemake.log.tool)
    facts = {**manifest, "backend": "sycl-test", "toolchain_sha256": digest, "flags": flags}
    write_text(snakemake.output.facts, json.dumps(facts, indent=2) + "\n")
    log.info("built %d programs in %s", len(programs), Path(snakemake.output.facts).parent)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
