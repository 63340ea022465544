"""Configure and build the patched llama.cpp: only the programs in use, with ccache where it is installed."""

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from phase_twin.engine import PROGRAMS, TESTS
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
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TESTS=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
)
BACKENDS = {"cpu": ("-DGGML_NATIVE=ON",)}


def require_compiler() -> str:
    """Return the C++ compiler's version line.

    Raises
    ------
    UserError
        if there is no compiler, with what to install.
    """
    for program, package in (("c++", "g++"), ("cc", "gcc"), ("cmake", "cmake"), ("ninja", "ninja-build")):
        if shutil.which(program) is None:
            raise UserError(f"{program} is not on the PATH; install it (Debian, Ubuntu: apt install {package})")
    version = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True)
    return version.stdout.splitlines()[0]


def configure_flags(backend: str, manifest: dict[str, Any]) -> list[str]:
    """Return the cmake -D flags for a backend; the build is named after the base and the patches."""
    flags = [*LAYOUT, *OFFLINE, *BACKENDS[backend]]
    # without these the hash of an outer repository is taken
    number = re.sub(r"\D", "", manifest["tag"])
    flags += [f"-DLLAMA_BUILD_NUMBER={number}"]
    flags += [f"-DLLAMA_BUILD_COMMIT={manifest['commit'][:9]}-{manifest['patch_sha256'][:8]}"]
    if shutil.which("ccache"):
        flags += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    return flags


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    manifest = json.loads(Path(snakemake.input.manifest).read_text())
    compiler = require_compiler()
    tree, build = Path(snakemake.params.tree), Path(snakemake.params.build)
    flags = configure_flags(snakemake.params.backend, manifest)
    # paths relative to the tree let ccache serve any checkout
    env = {"CCACHE_BASEDIR": str(tree.resolve().parent), "CCACHE_NOHASHDIR": "1"}
    run_tool(["cmake", "-S", tree, "-B", build, "-G", "Ninja", *flags], snakemake.log.tool, env=env)
    bar = r"\[(?P<done>\d+)/(?P<total>\d+)\]"
    command = ["cmake", "--build", build, "-j", str(snakemake.threads), "--target", *PROGRAMS, *TESTS]
    run_tool(command, snakemake.log.tool, env=env, progress=bar, label="build", append=True)
    for target in snakemake.output.programs:
        target = Path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / "bin" / target.name, target)
    facts = {**manifest, "backend": snakemake.params.backend, "compiler": compiler, "flags": flags}
    write_text(snakemake.output.facts, json.dumps(facts, indent=2) + "\n")
    log.info("built %d programs in %s", len(snakemake.output.programs), Path(snakemake.output.facts).parent)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
