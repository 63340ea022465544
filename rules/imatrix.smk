# Requires: the BF16 model and the calibration text.
# Makes: the importance matrix that both variants are quantized with and the ranking reads, and the covariances for
# error feedback, where a recipe wants it; on a cluster in parts, which are added.


def covariance_output():
    if any(recipe.needs_covariance for recipe in RECIPES.values()):
        return {"covariance": disposable(model_resources("covariance.gguf"))}
    return {}


if CFG.imatrix.parts == 1:

    rule compute_imatrix:
        input:
            program=engine("llama-imatrix"),
            model=rules.convert_checkpoint.output.model,
            corpus=text_path(CFG.imatrix.corpus),
        output:
            **covariance_output(),
            imatrix=results("imatrix.gguf"),
            digest=model_resources("imatrix.gguf.sha256"),
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

else:

    rule compute_imatrix_part:
        input:
            program=engine("llama-imatrix"),
            model=rules.convert_checkpoint.output.model,
            corpus=text_path(CFG.imatrix.corpus),
        output:
            **{
                name: temp(model_resources(f"imatrix/{{part}}-{name}.gguf"))
                for name in ("imatrix", *covariance_output())
            },
        log:
            main=logs("imatrix-{part}.log"),
            tool=logs("imatrix-{part}-tool.log"),
        benchmark:
            benchmarks("imatrix-{part}")
        conda:
            "../envs/pipeline.yaml"
        threads: THREADS
        resources:
            mem_mb=size_mb(1.2, 2000),
            disk_mb=size_mb(0.1, 500),
            runtime=minutes(10),
        params:
            n_ctx=CFG.imatrix.n_ctx,
            chunks=lambda wildcards: CFG.imatrix.ranges()[int(wildcards.part)][1],
            first_chunk=lambda wildcards: CFG.imatrix.ranges()[int(wildcards.part)][0],
        message:
            "Collect part {wildcards.part} of the importance matrix"
        script:
            "../scripts/compute_imatrix.py"

    rule compute_imatrix:
        input:
            **{
                name: expand(
                    rules.compute_imatrix_part.output[name],
                    part=range(CFG.imatrix.parts),
                )
                for name in ("imatrix", *covariance_output())
            },
        output:
            **covariance_output(),
            imatrix=results("imatrix.gguf"),
            digest=model_resources("imatrix.gguf.sha256"),
        log:
            main=logs("imatrix.log"),
        cache: True
        conda:
            "../envs/pipeline.yaml"
        resources:
            mem_mb=2000,
            disk_mb=size_mb(0.2, 500),
            runtime=minutes(1),
        params:
            pipeline=VERSION,
            benchmark=own_benchmark("compute_imatrix", benchmarks("imatrix")),
        message:
            "Add the parts of the importance matrix"
        script:
            "../scripts/add_sums.py"
