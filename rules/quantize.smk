# Requires: the BF16 model, the imatrix and, for IQ3_A770, the covariances.
# Makes: one plain GGUF per recipe: the variants of the twin, the reference model where that is quantized too, and
# what the study compares.


def recipe_params(wildcards):
    recipe = RECIPES[wildcards.recipe]
    return {
        "experts": recipe.experts,
        "rest": recipe.rest,
        "rest_classes": recipe.rest_classes,
        "strict": recipe.strict,
        "refined_weight": recipe.refined_weight,
    }


BASE_SUFFIX = "-base"
REFINED = [name for name, recipe in RECIPES.items() if recipe.uses("IQ4_A770")]


rule rank_layers:
    input:
        imatrix=rules.compute_imatrix.output.imatrix,
    output:
        ranking=results("rank/layers.json"),
        calibration=results("rank/calibration.json"),
    log:
        main=logs("rank-layers.log"),
    benchmark:
        benchmarks("rank-layers")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=10,
        runtime=10,
    params:
        chunks_asked=CFG.imatrix.chunks,
    message:
        "Rank the layers of each expert class"
    script:
        "../scripts/rank_layers.py"


rule quantize_recipe:
    input:
        program=engine("llama-quantize"),
        model=rules.convert_checkpoint.output.model,
        imatrix=rules.compute_imatrix.output.imatrix,
        covariance=lambda wildcards: (
            rules.compute_imatrix.output.covariance
            if RECIPES[wildcards.recipe].needs_covariance
            else []
        ),
        ranking=rules.rank_layers.output.ranking,
    output:
        gguf=disposable(model_resources(f"{CFG.model.title}-{{recipe}}.gguf")),
        digest=model_resources(f"{CFG.model.title}-{{recipe}}.gguf.sha256"),
    log:
        main=logs("quantize-{recipe}.log"),
        tool=logs("quantize-{recipe}-tool.log"),
    wildcard_constraints:
        recipe="|".join(RECIPES),
    cache: True
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=size_mb(0.1, 2000),
        disk_mb=size_mb(0.45),
        runtime=minutes(10),
    params:
        pipeline=VERSION,
        benchmark=own_benchmark("quantize_recipe", benchmarks("quantize-{recipe}")),
        recipe=recipe_params,
    message:
        "Quantize {wildcards.recipe}"
    script:
        "../scripts/quantize_recipe.py"


# what the small phase of a nested twin would be, for the studies
rule take_base:
    input:
        model=rules.quantize_recipe.output.gguf,
    output:
        gguf=disposable(
            model_resources(f"{CFG.model.title}-{{recipe}}{BASE_SUFFIX}.gguf")
        ),
    log:
        main=logs("take-base-{recipe}.log"),
    benchmark:
        benchmarks("take-base-{recipe}")
    wildcard_constraints:
        recipe="|".join(REFINED),
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=size_mb(0.25),
        runtime=minutes(1),
    message:
        "Take the IQ3_A770 out of {wildcards.recipe}"
    script:
        "../scripts/take_base.py"


def quantized(name):
    """Path of the model made after one recipe."""
    return str(rules.quantize_recipe.output.gguf).format(recipe=name)


def twin_kind():
    """Kind of the twin: as the recipes say, or as the measurement has decided."""
    if len(CFG.kinds) == 1:
        return next(iter(CFG.kinds))
    return read_result(checkpoints.choose_kind.get().output.choice)["kind"]


def variants(wildcards):
    """The files that the twin is made of; variant 0 of a nested one is in variant 1."""
    high = [kind_of(recipe) for recipe in CFG.variants].index(twin_kind(), 1)
    numbers = [high] if twin_kind() == NESTED else [0, high]
    return [quantized(f"variant{number}") for number in numbers]


def variant_digests(wildcards):
    return [f"{path}.sha256" for path in variants(wildcards)]
