# Requires: the BF16 model and the imatrix.
# Makes: one plain GGUF per variant of the twin, and the reference model where that is quantized too.


def recipe(wildcards):
    """The recipe of a variant; the reference has one type throughout."""
    if wildcards.variant == "reference":
        kind = CFG.bench.quality.reference
        return {"experts": dict.fromkeys(("gate", "up", "down"), kind), "rest": kind}
    chosen = CFG.variants[int(wildcards.variant)]
    return {"experts": chosen.experts, "rest": chosen.rest}


rule quantize_variant:
    input:
        program=engine("llama-quantize"),
        model=rules.convert_checkpoint.output.model,
        imatrix=rules.compute_imatrix.output.imatrix,
    output:
        gguf=model_resources(f"{CFG.model.title}-variant{{variant}}.gguf"),
    log:
        main=logs("quantize-{variant}.log"),
        tool=logs("quantize-{variant}-tool.log"),
    benchmark:
        benchmarks("quantize-{variant}")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=size_mb(0.1, 2000),
        disk_mb=size_mb(0.45),
        runtime=minutes(10),
    params:
        experts=lambda wildcards: recipe(wildcards)["experts"],
        rest=lambda wildcards: recipe(wildcards)["rest"],
    message:
        "Quantize variant {wildcards.variant}"
    script:
        "../scripts/quantize_variant.py"


VARIANTS = [
    rules.quantize_variant.output.gguf.format(variant=number)
    for number in range(len(CFG.variants))
]
