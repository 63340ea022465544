# Requires: config/sources.yaml (the pinned base), patches/series.
# Makes: resources/engine/cpu/bin, the patched llama.cpp programs, the report of their tests, resources/engine/BACKEND/bin,
# the programs that measure where engine.backend is not cpu, and the report of the new type by instruction set.
from functools import partial

from build_engine import require_compiler
from phase_twin.engine import KERNEL_TIMES, PROGRAMS, SOURCE_MANIFEST, TESTS
from test_instruction_sets import require_machine

# rule -> raises a UserError where this machine lacks what its job needs; called with the job's wildcards
TOOLS = {}
TOOLS["build_engine"] = TOOLS["build_stream_read"] = partial(require_compiler, "cpu")
TOOLS["build_card_engine"] = require_compiler
TOOLS["test_instruction_sets"] = require_machine


def refuse_missing_tools():
    """Refuse before anything starts, not when it is a build's turn; jobs of other machines say it themselves."""
    if workflow.non_local_exec or workflow.deployment_settings.deployment_method:
        return
    for job in workflow.dag.needrun_jobs():
        if (name := job.rule.name) in TOOLS:
            try:
                TOOLS[name](**job.wildcards_dict)
            except UserError as error:
                raise WorkflowError(f"{name}: {error}")


PATCHES = [project(f"patches/{patch.name}.patch") for patch in SERIES.patches]
ENGINE_TREE = resources("engine/source")


def engine(program, backend="cpu"):
    """Path of one built program; files are made by those for the CPU, whatever is measured."""
    return resources(f"engine/{backend}/bin/{program}")


def engine_facts(backend="cpu"):
    """Path of what is known of a build."""
    return resources(f"engine/{backend}/engine.json")


def measured_engine(program):
    """Path of the program that measures: the one for engine.backend."""
    return engine(program, CFG.engine.backend)


rule fetch_engine:
    input:
        sources=SOURCES_FILE,
        patches=PATCHES,
    output:
        manifest=SOURCE_MANIFEST,
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
        programs=[engine(program) for program in (*PROGRAMS, *TESTS, KERNEL_TIMES)],
        facts=engine_facts(),
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
        backend="cpu",
        tree=ENGINE_TREE,
        build=resources("engine/build-cpu"),
    message:
        "Build the engine: the long step, about 15 CPU minutes without ccache"
    script:
        "../scripts/build_engine.py"


use rule build_engine as build_card_engine with:
    output:
        programs=[
            engine(program, "{backend}") for program in (*PROGRAMS, "test-backend-ops")
        ],
        facts=engine_facts("{backend}"),
    log:
        main="logs/engine/build-card-{backend}.log",
        tool="logs/engine/build-card-{backend}-tool.log",
    benchmark:
        "benchmarks/engine/build-card-{backend}.tsv"
    wildcard_constraints:
        backend="|".join(CARDS),
    params:
        backend="{backend}",
        f16=CFG.engine.sycl_f16,
        tree=ENGINE_TREE,
        build=resources("engine/build-card-{backend}"),
    message:
        "Build the engine that measures, for {wildcards.backend}"


rule test_engine:
    input:
        programs=[engine(program) for program in TESTS],
    output:
        report=resources("engine/cpu/tests.json"),
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


rule test_instruction_sets:
    input:
        manifest=rules.fetch_engine.output.manifest,
        project=project("tests/engine/instruction_sets/CMakeLists.txt"),
        suppressions=project("tests/engine/instruction_sets/ubsan.supp"),
    output:
        report=resources("engine/instruction-sets.json"),
    log:
        main="logs/engine/test-instruction-sets.log",
        tool="logs/engine/test-instruction-sets-tool.log",
    benchmark:
        "benchmarks/engine/test-instruction-sets.tsv"
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        disk_mb=1000,
        runtime=60,
    params:
        tree=ENGINE_TREE,
        build=resources("engine/build-instruction-sets"),
    message:
        "Build ggml once per instruction set and run the tests of the new type"
    script:
        "../scripts/test_instruction_sets.py"
