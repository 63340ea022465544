# Requires: the BF16 model and the calibration text.
# Makes: the importance matrix that both variants are quantized with and the ranking reads, and the covariances for
# error feedback, where a recipe wants it.


def covariance_output():
    if any(recipe.needs_covariance for recipe in RECIPES.values()):
        return {"covariance": model_resources("covariance.gguf")}
    return {}


rule compute_imatrix:
    input:
        program=engine("llama-imatrix"),
        model=rules.convert_checkpoint.output.model,
        corpus=text_path(CFG.imatrix.corpus),
    output:
        **covariance_output(),
        imatrix=results("imatrix.gguf"),
    log:
        main=logs("imatrix.log"),
        tool=logs("imatrix-tool.log"),
    cache: True
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        # the covariances are a tenth of the model
        mem_mb=size_mb(1.2, 2000),
        disk_mb=size_mb(0.1, 500),
        runtime=minutes(10),
    params:
        pipeline=VERSION,
        benchmark=own_benchmark("compute_imatrix", benchmarks("imatrix")),
        n_ctx=CFG.imatrix.n_ctx,
        chunks=CFG.imatrix.chunks,
    message:
        "Collect the importance matrix over the calibration text"
    script:
        "../scripts/compute_imatrix.py"
