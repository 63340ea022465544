# Requires: a twin, the evaluation text, the engine for the CPU and the one for SYCL, a card.
# Makes: arc/report.json, all that is to know of a card in one file to send back, and arc/summary.md where all went well.


def arc_engine(program):
    """Input function for a program that runs on the card."""

    def path(wildcards):
        if CFG.engine.backend != "sycl":
            raise WorkflowError(
                "bench_arc runs on Intel graphics and engine.backend is "
                f'{CFG.engine.backend}; add --config engine=\'{{"backend":"sycl"}}\''
            )
        return engine(program, "sycl")

    return path


def arc_twin():
    """The twin to measure: the one made here, or one from elsewhere."""
    if CFG.bench.arc.twin is None:
        return rules.pack_twin.output.twin
    return source_path(CFG.bench.arc.twin, "twins", None)


rule measure_arc:
    input:
        bench=arc_engine("llama-bench"),
        test=arc_engine("test-backend-ops"),
        card=arc_engine("llama-perplexity"),
        cpu=engine("llama-perplexity"),
        facts=engine_facts("sycl"),
        twin=arc_twin(),
        verified=[] if CFG.bench.arc.twin else rules.verify_twin.output.report,
        corpus=text_path(CFG.bench.quality.corpus),
    output:
        summary=results("arc/summary.md"),
    log:
        main=logs("arc.log"),
        tool=logs("arc-tool.log"),
        # a log, for it is wanted most when something failed, and outputs of a failed job are removed
        report=results("arc/report.json"),
    benchmark:
        benchmarks("arc")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **CARD,
        mem_mb=size_mb(0.4, 2000),
        disk_mb=2000,
        runtime=240,
    params:
        title=CFG.model.title,
        version=VERSION,
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.bench.arc.chunks,
        n_prompt=CFG.bench.speed.n_prompt,
        n_gen=CFG.bench.speed.n_gen,
        repetitions=CFG.bench.speed.repetitions,
    message:
        "Put the card to the test"
    script:
        "../scripts/measure_arc.py"


rule bench_arc:
    input:
        rules.measure_arc.output,
