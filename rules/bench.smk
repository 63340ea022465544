# Requires: the twin, the pruned files, the stock types beside them, the evaluation text.
# Makes: bench/quality.json (KLD against the reference, and differences to a named row), with a plot; beside each row
# what was measured at every position; bench/speed.json (llama-bench).


def twin_cases():
    """What is measured of the twin: label -> file, and the phase where the file is the twin."""
    # plain strings: they travel in params
    twin = str(rules.pack_twin.output.twin)
    cases = {phase: (twin, number) for number, phase in enumerate(PHASES)}
    return cases | {name: (PRUNED[name]["gguf"], None) for name in TARGETS}


STUDY = {
    name: (quantized(name), None)
    for recipe in RECIPES
    if recipe.startswith(STUDY_PREFIX)
    for name in (recipe, recipe + BASE_SUFFIX)[: 1 + (recipe in REFINED)]
}
OURS = twin_cases()
COMPARED = [f"{STUDY_PREFIX}{recipe}" for recipe in CFG.bench.compare]
CASES = OURS | {name: STUDY[name] for name in COMPARED}


def measured(label):
    """File and phase that a label stands for, those of the studies included."""
    return (OURS | STUDY | KIND_CASES | CODEBOOK_CASES)[label]


def shown(label):
    """What a row of the tables is called."""
    return label.removeprefix(STUDY_PREFIX)


rule write_reference_logits:
    input:
        program=engine("llama-perplexity"),
        model=reference_model,
        corpus=text_path(CFG.bench.quality.corpus),
    output:
        logits=temp(model_resources("reference.kld")),
    log:
        main=logs("reference-logits.log"),
        tool=logs("reference-logits-tool.log"),
    cache: True
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=size_mb(1.1, 2000),
        disk_mb=size_mb(0.2),
        runtime=minutes(5),
    params:
        pipeline=VERSION,
        benchmark=own_benchmark(
            "write_reference_logits", benchmarks("reference-logits")
        ),
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.bench.quality.chunks,
        setting="bench.quality.chunks",
        shared=CFG.bench.quality.parts > 1,
    message:
        "Write the logits of the reference model"
    script:
        "../scripts/write_reference_logits.py"


rule measure_quality:
    input:
        program=measured_engine("llama-perplexity"),
        model=lambda wildcards: measured(wildcards.label)[0],
        verified=lambda wildcards: (
            rules.verify_twin.output.report if wildcards.label in OURS else []
        ),
        logits=rules.write_reference_logits.output.logits,
    output:
        row=results("bench/quality/{label}.json"),
        positions=results("bench/quality/{label}.npz"),
    log:
        main=logs("quality-{label}.log"),
        tool=logs("quality-{label}-tool.log"),
    benchmark:
        benchmarks("quality-{label}")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **CARD,
        mem_mb=size_mb(0.4, 2000),
        disk_mb=10,
        runtime=minutes(5),
    params:
        backend=CFG.engine.backend,
        label=lambda wildcards: shown(wildcards.label),
        variant=lambda wildcards: measured(wildcards.label)[1],
        reference=CFG.bench.quality.reference,
        documents=CFG.bench.quality.documents,
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.bench.quality.chunks,
    message:
        "Measure the quality of {wildcards.label}"
    script:
        "../scripts/measure_quality.py"


# on a cluster jobs share the chunks of a measurement, and one puts together what they found
PARTS = range(CFG.bench.quality.parts)
PART = {
    "first_chunk": lambda wildcards: CFG.bench.quality.ranges()[int(wildcards.part)][0],
    "chunks": lambda wildcards: CFG.bench.quality.ranges()[int(wildcards.part)][1],
}

if len(PARTS) > 1:

    use rule measure_quality as measure_quality_part with:
        output:
            part=temp(model_resources("quality/{label}-{part}.kldpart")),
            ran=temp(model_resources("quality/{label}-{part}.json")),
        log:
            main=logs("quality/{label}-{part}.log"),
            tool=logs("quality/{label}-{part}-tool.log"),
        benchmark:
            benchmarks("quality/{label}-{part}")
        params:
            **PART,
        message:
            "Measure the quality of {wildcards.label}, part {wildcards.part}"

    use rule measure_quality as merge_quality with:
        input:
            program=measured_engine("llama-perplexity"),
            model=lambda wildcards: measured(wildcards.label)[0],
            logits=rules.write_reference_logits.output.logits,
            parts=expand(
                rules.measure_quality_part.output.part, part=PARTS, allow_missing=True
            ),
            ran=expand(
                rules.measure_quality_part.output.ran, part=PARTS, allow_missing=True
            ),
        benchmark:
            benchmarks("merge-quality-{label}")
        threads: 1
        resources:
            mem_mb=1000,
            disk_mb=10,
            runtime=10,
        message:
            "Put together the quality of {wildcards.label}"

    ruleorder: merge_quality > measure_quality


rule gather_quality:
    input:
        rows=expand(rules.measure_quality.output.row, label=CASES),
        positions=expand(rules.measure_quality.output.positions, label=CASES),
    output:
        table=results("bench/quality.json"),
        plot=report(
            results("bench/quality.svg"),
            caption="../report/quality.rst",
            category="Pictures",
            labels={"picture": "KLD against bytes"},
        ),
        png=results("bench/quality.png"),
    log:
        main=logs("gather-quality.log"),
    benchmark:
        benchmarks("gather-quality")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
        ours=list(OURS),
        joined=True,
        compare_to=CFG.bench.compare_to if CFG.bench.compare else None,
    message:
        "Gather the quality table"
    script:
        "../scripts/gather_quality.py"


rule measure_speed:
    input:
        program=measured_engine("llama-bench"),
        models=sorted({file for file, _ in CASES.values()}),
        verified=rules.verify_twin.output.report,
        # with all else done before, nothing runs beside it. Not ancient(): where such an input is made again, Snakemake
        # overlooks that the models or params have changed
        quality=rules.gather_quality.output.table,
        tests=rules.test_engine.output.report,
    output:
        speed=results("bench/speed.json"),
    log:
        main=logs("speed.log"),
        tool=logs("speed-tool.log"),
    benchmark:
        benchmarks("speed")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **CARD,
        mem_mb=size_mb(0.4, 2000),
        disk_mb=10,
        runtime=minutes(5),
    params:
        cases=[
            {"label": shown(label), "file": file, "variant": variant}
            for label, (file, variant) in CASES.items()
        ],
        backend=CFG.engine.backend,
        n_prompt=CFG.bench.speed.n_prompt,
        n_gen=CFG.bench.speed.n_gen,
        depths=CFG.bench.speed.depths,
        repetitions=CFG.bench.speed.repetitions,
    message:
        "Measure speed, all files side by side"
    script:
        "../scripts/measure_speed.py"


rule bench:
    input:
        rules.gather_quality.output,
        lambda wildcards: rules.gather_curve.output,
        rules.measure_speed.output,
        lambda wildcards: KIND_TABLE,


rule gather_study:
    input:
        rows=expand(rules.measure_quality.output.row, label=STUDY),
        positions=expand(rules.measure_quality.output.positions, label=STUDY),
    output:
        table=results("study/recipes.json"),
        plot=report(
            results("study/recipes.svg"),
            caption="../report/study_recipes.rst",
            category="Studies",
            labels={"picture": "Recipes"},
        ),
        png=results("study/recipes.png"),
    log:
        main=logs("gather-study.log"),
    benchmark:
        benchmarks("gather-study")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
        ours=[
            shown(name)
            for name in STUDY
            if RECIPES[name.removesuffix(BASE_SUFFIX)].uses_ours
        ],
        joined=False,
        compare_to=CFG.bench.compare_to,
    message:
        "Gather the study of recipes"
    script:
        "../scripts/gather_quality.py"


rule study_recipes:
    input:
        rules.gather_study.output,
