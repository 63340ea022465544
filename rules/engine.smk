# Requires: config/sources.yaml (the pinned base), patches/series.
# Makes: resources/engine/BACKEND/bin, the patched llama.cpp programs, and the report of their tests.
from scripts.phase_twin.engine import PROGRAMS, TESTS

PATCHES = [f"patches/{name}" for name in Path("patches/series").read_text().split()]
ENGINE_TREE = resources("engine/source")


def engine(program):
    """Path of one built program."""
    return resources(f"engine/{CFG.engine.backend}/bin/{program}")


rule fetch_engine:
    input:
        sources=SOURCES_FILE,
        patches=PATCHES,
    output:
        manifest=resources("engine/source.json"),
    log:
        main="logs/engine/fetch.log",
        tool="logs/engine/fetch-tool.log",
    benchmark:
        "benchmarks/engine/fetch.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=1000,
        runtime=30,
    params:
        method=CFG.engine.source,
        base=resources("engine/base"),
        tree=ENGINE_TREE,
    message:
        "Bring llama.cpp at the pinned base and apply the patch series"
    script:
        "../scripts/fetch_engine.py"


rule build_engine:
    input:
        manifest=rules.fetch_engine.output.manifest,
    output:
        programs=[engine(program) for program in (*PROGRAMS, *TESTS)],
        facts=resources(f"engine/{CFG.engine.backend}/engine.json"),
    log:
        main="logs/engine/build.log",
        tool="logs/engine/build-tool.log",
    benchmark:
        "benchmarks/engine/build.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=8000,
        disk_mb=2000,
        runtime=60,
    params:
        backend=CFG.engine.backend,
        tree=ENGINE_TREE,
        build=resources(f"engine/build-{CFG.engine.backend}"),
    message:
        "Build the engine: the long step, about 15 CPU minutes without ccache"
    script:
        "../scripts/build_engine.py"


rule test_engine:
    input:
        programs=[engine(program) for program in TESTS],
    output:
        report=resources(f"engine/{CFG.engine.backend}/tests.json"),
    log:
        main="logs/engine/test.log",
        tool="logs/engine/test-tool.log",
    benchmark:
        "benchmarks/engine/test.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=4000,
        disk_mb=10,
        runtime=30,
    message:
        "Run llama.cpp's tests of the new type and of the variant loader"
    script:
        "../scripts/test_engine.py"
