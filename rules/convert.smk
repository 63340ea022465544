# Requires: the checkpoint and llama.cpp's converter.
# Makes: the BF16 GGUF with layer counts proven against its tensors and, where the checkpoint has one, the vision tower
# in F16: a job of its own, which cannot take the model with it.


rule convert_checkpoint:
    input:
        checkpoint=checkpoint_files(CFG.model.checkpoint),
        manifest=rules.fetch_engine.output.manifest,
    output:
        model=disposable(model_resources(f"{CFG.model.title}-BF16.gguf")),
        digest=model_resources(f"{CFG.model.title}-BF16.gguf.sha256"),
    log:
        main=logs("convert.log"),
        tool=logs("convert-tool.log"),
    cache: True
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=size_mb(0.2, 3000),
        disk_mb=size_mb(1.1),
        runtime=minutes(2),
    params:
        pipeline=VERSION,
        benchmark=own_benchmark("convert_checkpoint", benchmarks("convert")),
        checkpoint=checkpoint_path(CFG.model.checkpoint),
        tree=ENGINE_TREE,
        title=CFG.model.title,
        tokenizer_pre=CFG.model.tokenizer_pre,
        layers=list(CFG.model.expert_layers),
        mtp=CFG.model.mtp,
    message:
        "Convert the checkpoint to BF16"
    script:
        "../scripts/convert_checkpoint.py"


rule convert_tower:
    input:
        checkpoint=checkpoint_files(CFG.model.checkpoint),
        manifest=rules.fetch_engine.output.manifest,
    output:
        digest=model_resources(f"{CFG.model.title}-mmproj-F16.gguf.sha256"),
        mmproj=results(f"{CFG.model.title}-mmproj-F16.gguf"),
    log:
        main=logs("convert-tower.log"),
        tool=logs("convert-tower-tool.log"),
    cache: True
    # what is wrong with it is told at the start of a run
    priority: 10
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=size_mb(0.05, 3000),
        disk_mb=size_mb(0.05),
        runtime=minutes(0.5),
    params:
        pipeline=VERSION,
        benchmark=own_benchmark("convert_tower", benchmarks("convert-tower")),
        checkpoint=checkpoint_path(CFG.model.checkpoint),
        tree=ENGINE_TREE,
        title=CFG.model.title,
        license=CFG.model.license,
        repo=hub_repository(),
        tokenizer_pre=CFG.model.tokenizer_pre,
    message:
        "Convert the vision tower to F16"
    script:
        "../scripts/convert_tower.py"


def tower_files():
    """Inputs of what carries the vision tower; none where there is none."""
    if not HAS_TOWER:
        return {}
    made = rules.convert_tower.output
    return {"mmproj": made.mmproj, "mmproj_digest": made.digest}
