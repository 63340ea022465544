# Requires: the variants and the order of promotion.
# Makes: the twin, and the proof that it holds what went in and that the engine reads it.


rule write_provenance:
    input:
        engine=rules.build_engine.output.facts,
        model=rules.convert_checkpoint.output.model,
        imatrix=rules.compute_imatrix.output.imatrix,
        model_digest=rules.convert_checkpoint.output.digest,
        imatrix_digest=rules.compute_imatrix.output.digest,
        # only an order: damage that went into them is found too
        variants=variants,
        calibration=text_path(CFG.imatrix.corpus),
    output:
        facts=results("provenance.json"),
    log:
        main=logs("provenance.log"),
    benchmark:
        benchmarks("provenance")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=500,
        disk_mb=10,
        runtime=minutes(0.2),
    params:
        config_hash=lambda wildcards: twin_hash(CFG, twin_kind()),
        version=VERSION,
    message:
        "Record versions and hashes of all that decides the twin's bytes"
    script:
        "../scripts/write_provenance.py"


rule pack_twin:
    input:
        variants=variants,
        digests=variant_digests,
        order=order_of(CFG.rank.method),
        provenance=rules.write_provenance.output.facts,
        after=last_uses_of_bf16,
    output:
        twin=results(f"{CFG.model.title}-twin.gguf"),
        digest=results(f"{CFG.model.title}-twin.gguf.sha256"),
    log:
        main=logs("pack.log"),
    benchmark:
        benchmarks("pack")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=size_mb(0.55),
        runtime=minutes(1),
    params:
        license=CFG.model.license,
        repo=hub_repository(),
    message:
        "Pack both variants into the twin"
    script:
        "../scripts/pack_twin.py"


rule verify_twin:
    input:
        twin=rules.pack_twin.output.twin,
        variants=variants,
        completion=engine("llama-completion"),
        variant_info=engine("llama-variant-info"),
    output:
        report=results("verify.json"),
    log:
        main=logs("verify.log"),
        tool=logs("verify-tool.log"),
    benchmark:
        benchmarks("verify")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=size_mb(0.4, 2000),
        disk_mb=10,
        runtime=minutes(1),
    message:
        "Compare the twin with its sources byte by byte and load it in every way"
    script:
        "../scripts/verify_twin.py"


rule twin:
    input:
        rules.pack_twin.output,
        rules.verify_twin.output,
