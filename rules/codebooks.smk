# Requires: the BF16 model, its imatrix and reference logits, the engine's source (the encoder is compiled anew).
# Makes: study/codebooks.json, other tables of IQ3_A770 beside version 1, by error and by quality.

# "lloyd" is fitted to the model, version 1 is what stands in the format
CODEBOOKS = ("version-1", "lloyd", *CFG.study.codebooks)


rule fit_codebook:
    input:
        manifest=rules.fetch_engine.output.manifest,
        model=rules.convert_checkpoint.output.model,
        imatrix=rules.compute_imatrix.output.imatrix,
    output:
        fitted=results("study/codebook-lloyd.json"),
    log:
        main=logs("fit-codebook.log"),
        tool=logs("fit-codebook-tool.log"),
    benchmark:
        benchmarks("fit-codebook")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=10,
        runtime=minutes(30),
    params:
        tree=ENGINE_TREE,
        iterations=12,
    message:
        "Fit a codebook to the experts"
    script:
        "../scripts/fit_codebook.py"


rule encode_codebook:
    input:
        manifest=rules.fetch_engine.output.manifest,
        model=rules.convert_checkpoint.output.model,
        imatrix=rules.compute_imatrix.output.imatrix,
        fitted=lambda wildcards: (
            rules.fit_codebook.output.fitted if wildcards.codebook == "lloyd" else []
        ),
    output:
        gguf=temp(
            model_resources(f"{CFG.model.title}-codebook-{{codebook}}-{{run}}.gguf")
        ),
        row=results("study/codebooks/{codebook}-{run}.json"),
    log:
        main=logs("encode-codebook-{codebook}-{run}.log"),
        tool=logs("encode-codebook-{codebook}-{run}-tool.log"),
    benchmark:
        benchmarks("encode-codebook-{codebook}-{run}")
    wildcard_constraints:
        codebook="|".join(CODEBOOKS),
        run=r"\d+",
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=size_mb(1.1),
        runtime=minutes(5),
    params:
        tree=ENGINE_TREE,
        codebook=lambda wildcards: wildcards.codebook,
        run=lambda wildcards: int(wildcards.run),
        table=lambda wildcards: CFG.study.codebooks.get(wildcards.codebook),
    message:
        "Encode the experts with {wildcards.codebook}, run {wildcards.run}"
    script:
        "../scripts/encode_codebook.py"


CODEBOOK_CASES = {
    f"codebook-{name}-{run}": (
        str(rules.encode_codebook.output.gguf).format(codebook=name, run=run),
        None,
    )
    for name in CODEBOOKS
    for run in range(CFG.study.codebook_runs)
}


rule gather_codebooks:
    input:
        errors=expand(
            rules.encode_codebook.output.row,
            codebook=CODEBOOKS,
            run=range(CFG.study.codebook_runs),
        ),
        qualities=expand(rules.measure_quality.output.row, label=CODEBOOK_CASES),
        positions=expand(rules.measure_quality.output.positions, label=CODEBOOK_CASES),
    output:
        table=results("study/codebooks.json"),
    log:
        main=logs("gather-codebooks.log"),
    benchmark:
        benchmarks("gather-codebooks")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        compare_to="version-1",
    message:
        "Gather the study of codebooks"
    script:
        "../scripts/gather_codebooks.py"


rule study_codebooks:
    input:
        rules.gather_codebooks.output,
