# Requires: the patched tree, toolchain/sycl (set up by `make setup-sycl`).
# Makes: resources/engine/sycl-test/bin, programs with the SYCL backend for a CPU device, and the reports of their tests.
from build_sycl import require_tools
from phase_twin.engine import SYCL_PROGRAMS, SYCL_TESTS

TOOLCHAIN = project("toolchain/sycl")
TOOLS["build_sycl"] = partial(require_tools, Path(TOOLCHAIN))
TOOLS["build_sycl_otherwise"] = lambda build: TOOLS["build_sycl"]()
# the types whose kernels the patches add or change
PATCHED_TYPES = ["iq3_a770", "iq4_a770", "q3_K", "q4_K", "q5_K", "q6_K"]


# the same kernels built in other ways, for a rule of its own
OTHER_BUILDS = {"warp32": ["-DGGML_SYCL_WARP_SIZE=32"], "f16": ["-DGGML_SYCL_F16=ON"]}


def sycl(program, build="test"):
    """Path of one program with the SYCL backend."""
    return resources(f"engine/sycl-{build}/bin/{program}")


def toolchain_files(wildcards):
    """What the toolchain is made of; its README is not."""
    kinds = (".py", ".cpp", ".hpp", ".cmake", ".lock")
    found = [path for path in Path(TOOLCHAIN).rglob("*") if path.suffix in kinds]
    return sorted(str(path) for path in found)


rule build_sycl:
    input:
        manifest=rules.fetch_engine.output.manifest,
        toolchain=toolchain_files,
    output:
        programs=[sycl(program) for program in SYCL_PROGRAMS],
        facts=resources("engine/sycl-test/engine.json"),
    log:
        main="logs/engine/build-sycl.log",
        tool="logs/engine/build-sycl-tool.log",
    benchmark:
        "benchmarks/engine/build-sycl.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=8000,
        disk_mb=2000,
        runtime=60,
    params:
        toolchain=TOOLCHAIN,
        tree=ENGINE_TREE,
        build=resources("engine/build-sycl"),
        flags=[],
    message:
        "Build the engine with the SYCL backend, for tests on the CPU"
    script:
        "../scripts/build_sycl.py"


rule test_sycl:
    input:
        kernels=[sycl(program) for program in SYCL_TESTS],
        operations=sycl("test-backend-ops"),
    output:
        report=resources("engine/sycl-test/tests.json"),
    log:
        main="logs/engine/test-sycl.log",
        tool="logs/engine/test-sycl-tool.log",
    benchmark:
        "benchmarks/engine/test-sycl.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        disk_mb=10,
        runtime=30,
    params:
        toolchain=TOOLCHAIN,
        types=PATCHED_TYPES,
    message:
        "Compare the SYCL backend with the CPU backend: the types that the patches touch"
    script:
        "../scripts/test_sycl.py"


use rule test_sycl as test_sycl_all with:
    output:
        report=resources("engine/sycl-test/tests-all.json"),
    log:
        main="logs/engine/test-sycl-all.log",
        tool="logs/engine/test-sycl-all-tool.log",
    benchmark:
        "benchmarks/engine/test-sycl-all.tsv"
    params:
        toolchain=TOOLCHAIN,
        types=[],
    message:
        "Compare the SYCL backend with the CPU backend: all types"


use rule build_sycl as build_sycl_otherwise with:
    output:
        programs=[
            sycl(program, "{build}") for program in ("test-backend-ops", *SYCL_TESTS)
        ],
        facts=resources("engine/sycl-{build}/engine.json"),
    log:
        main="logs/engine/build-sycl-{build}.log",
        tool="logs/engine/build-sycl-{build}-tool.log",
    benchmark:
        "benchmarks/engine/build-sycl-{build}.tsv"
    wildcard_constraints:
        build="|".join(OTHER_BUILDS),
    params:
        toolchain=TOOLCHAIN,
        tree=ENGINE_TREE,
        build=resources("engine/build-sycl-{build}"),
        flags=lambda wildcards: OTHER_BUILDS[wildcards.build],
    message:
        "Build the tests with the SYCL backend: {wildcards.build}"


use rule test_sycl as test_sycl_otherwise with:
    input:
        kernels=[sycl(program, "{build}") for program in SYCL_TESTS],
        operations=sycl("test-backend-ops", "{build}"),
    output:
        report=resources("engine/sycl-{build}/tests.json"),
    log:
        main="logs/engine/test-sycl-{build}.log",
        tool="logs/engine/test-sycl-{build}-tool.log",
    benchmark:
        "benchmarks/engine/test-sycl-{build}.tsv"
    wildcard_constraints:
        build="|".join(OTHER_BUILDS),
    message:
        "Compare the SYCL backend with the CPU backend: {wildcards.build}"


rule test_sycl_builds:
    input:
        expand(rules.test_sycl_otherwise.output.report, build=OTHER_BUILDS),
