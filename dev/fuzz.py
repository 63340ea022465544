"""Fuzz the engine's GGUF reader and model loader under AddressSanitizer and UndefinedBehaviorSanitizer.

usage: dev/run fuzz [--minutes N] [--tree DIR]   (from the project's folder, after the rule fetch_engine)

Builds tests/fuzz-gguf.cpp of the patched tree: with clang as a libFuzzer target that coverage guides, with another
compiler as a program that mutates blindly. Both start from tests/fuzz/corpus. One line of JSON says in the end what was
tried; the exit code is 1 if anything crashed, hung or took too much memory, and the input is kept.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from build_engine import LAYOUT, OFFLINE

CORPUS = Path("tests/fuzz/corpus")
BUILD = Path("resources/engine/build-fuzz")
SANITIZERS = "address,undefined"
RUNS = 5_000  # mutations per process where there is no libFuzzer
LIMITS = ("-max_len=8192", "-timeout=10", "-rss_limit_mb=2048")

# what coverage alone is slow to find
DICTIONARY = (
    "general.alignment",
    "general.architecture",
    "general.file_type",
    *(
        f"general.tensor_variant.{name}"
        for name in ("version", "count", "default", "budget_mb", "promote_order", "promote_tie", "promote")
    ),
    "iq3_a770.version",
    "iq3_a770.codebook",
    "split.no",
    "split.count",
    "split.tensors.count",
    ".v1",
    ".v2",
)


def compilers() -> tuple[str, str, bool]:
    """C compiler, C++ compiler, and whether they come with libFuzzer."""
    if shutil.which("clang") and shutil.which("clang++"):
        probe = ["clang++", "-fsanitize=fuzzer", "-x", "c++", "-", "-o", os.devnull]
        code = b'extern "C" int LLVMFuzzerTestOneInput(const unsigned char *, unsigned long) { return 0; }'
        if subprocess.run(probe, input=code, capture_output=True).returncode == 0:
            return "clang", "clang++", True
    return "cc", "c++", False


def build(tree: Path, folder: Path, libfuzzer: bool, c: str, cxx: str) -> Path:
    """Build the target and return its path; a repeat compiles what changed."""
    sanitizers = f"{'fuzzer-no-link,' if libfuzzer else ''}{SANITIZERS}"
    # the vendored code is built as it is: only what it does with the input is of interest
    flags = f"-O1 -g1 -fno-omit-frame-pointer -fsanitize={sanitizers} -fno-sanitize-recover=undefined"
    options = [
        *(option for option in LAYOUT if not option.startswith("-DCMAKE_BUILD_TYPE")),
        *OFFLINE,
        *("-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_C_COMPILER={c}", f"-DCMAKE_CXX_COMPILER={cxx}"),
        *(f"-DCMAKE_C_FLAGS={flags}", f"-DCMAKE_CXX_FLAGS={flags}"),
        *("-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF", "-DGGML_LLAMAFILE=OFF"),
        *("-DLLAMA_BUILD_NUMBER=1", "-DLLAMA_BUILD_COMMIT=fuzz"),
        f"-DLLAMA_LIBFUZZER={'ON' if libfuzzer else 'OFF'}",
    ]
    if shutil.which("ccache"):
        options += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    env = {"CCACHE_BASEDIR": str(tree.resolve().parent), "CCACHE_NOHASHDIR": "1"} | os.environ
    quiet = {"stdout": sys.stderr, "env": env, "check": True}
    subprocess.run(["cmake", "-S", tree, "-B", folder, "-G", "Ninja", *options], **quiet)
    subprocess.run(["cmake", "--build", folder, "--target", "fuzz-gguf"], **quiet)
    return (folder / "bin/fuzz-gguf").resolve()


def guided(program: Path, folder: Path, seconds: int) -> dict[str, int]:
    """Run libFuzzer for a time; new inputs of interest stay in `folder`/corpus for the next run."""
    found, kept = folder / "corpus", folder / "crashes"
    for path in (found, kept):
        path.mkdir(parents=True, exist_ok=True)
    before = set(kept.iterdir())
    dictionary = folder / "gguf.dict"
    dictionary.write_text("".join(f'"{word}"\n' for word in DICTIONARY))
    command = [program, f"-max_total_time={seconds}", *LIMITS, f"-dict={dictionary}", f"-artifact_prefix={kept}/"]
    command += ["-print_final_stats=1", found, *sorted(path for path in CORPUS.iterdir() if path.is_dir())]
    with open(folder / "fuzz.log", "wb") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    text = (folder / "fuzz.log").read_text(errors="replace")
    facts = {name: int(count) for name, count in re.findall(r"stat::(\w+):\s+(\d+)", text)}
    coverage = re.findall(r" cov: (\d+) ", text)
    crashes = sorted(set(kept.iterdir()) - before)
    for path in crashes:
        print(f"crash: {path}", file=sys.stderr)
    return {
        "inputs": facts.get("number_of_executed_units", 0),
        "crashes": max(len(crashes), int(done.returncode != 0)),
        "edges": int(coverage[-1]) if coverage else 0,
        "corpus": len(list(found.iterdir())),
        "peak_rss_mb": facts.get("peak_rss_mb", 0),
    }


def blind(program: Path, folder: Path, seconds: int) -> dict[str, int]:
    """Mutate the corpus until the time is up, with seeds 1, 2, ..."""
    files = sorted(CORPUS.glob("*/*.gguf"))
    end, inputs, seed = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        seed += 1
        command = [program, "--runs", str(RUNS), "--seed", str(seed), *files]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        (folder / "fuzz.log").write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            print(f"crash with seed {seed}, see {folder}/fuzz.log", file=sys.stderr)
            return {"inputs": inputs, "crashes": 1}
        inputs += RUNS + len(files)
    return {"inputs": inputs, "crashes": 0}


def main() -> int:
    """Build, run, report."""
    parser = argparse.ArgumentParser(description="Fuzz the engine's GGUF reader and model loader.")
    parser.add_argument("--minutes", type=float, default=10, help="how long to run (%(default)s)")
    parser.add_argument("--tree", type=Path, default=Path("resources/engine/source"), help="%(default)s")
    parser.add_argument("--build", type=Path, default=BUILD, help="%(default)s")
    args = parser.parse_args()
    if not (args.tree / "tests/fuzz-gguf.cpp").exists():
        sys.exit(f"{args.tree} has no fuzz target: snakemake --cores 2 fetch_engine")
    c, cxx, libfuzzer = compilers()
    program = build(args.tree, args.build, libfuzzer, c, cxx)
    start = time.monotonic()
    report = (guided if libfuzzer else blind)(program, args.build, round(args.minutes * 60))
    seconds = round(time.monotonic() - start)
    print(json.dumps({"fuzzer": "libFuzzer" if libfuzzer else "blind", "seconds": seconds, **report}))
    return 1 if report["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
