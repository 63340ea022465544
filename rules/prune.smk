# Requires: the verified twin.
# Makes: one plain GGUF per entry of prune_targets, and a target prune_NAME for each.
PRUNE_TOOL = [
    project("scripts/prune-dual.py"),
    *sorted(map(str, Path(project("scripts/prune_dual")).rglob("*.py"))),
]
TARGETS = {target.name: target for target in CFG.prune_targets}


def budget_flags(wildcards):
    """How the target says its budget on the command line of prune-dual."""
    target = TARGETS[wildcards.target]
    if target.budget_mb is not None:
        return ["--budget-mb", target.budget_mb]
    flags = ["--vram-gib", target.vram_gib, "--reserve-gib", target.reserve_gib]
    flags += ["--ctx", target.ctx]
    return [
        *flags,
        "--cache-type-k",
        target.cache_type_k,
        "--cache-type-v",
        target.cache_type_v,
    ]


rule prune:
    input:
        twin=rules.pack_twin.output.twin,
        verified=rules.verify_twin.output.report,
        tool=PRUNE_TOOL,
    output:
        gguf=results(f"{CFG.model.title}-{{target}}.gguf"),
        selection=results("prune/{target}.json"),
    log:
        main=logs("prune-{target}.log"),
    benchmark:
        benchmarks("prune-{target}")
    wildcard_constraints:
        target="|".join(TARGETS) or "none",
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=size_mb(0.3),
        runtime=minutes(0.5),
    params:
        budget=budget_flags,
    message:
        "Prune the twin to {wildcards.target}"
    shell:
        "python {input.tool[0]:q} --dual {input.twin:q} --out {output.gguf:q} {params.budget:q} --json"
        " > {output.selection:q} 2> {log.main:q} || {{ cat {log.main:q} >&2; exit 1; }}"


PRUNED = {
    name: {key: path.format(target=name) for key, path in rules.prune.output.items()}
    for name in TARGETS
}

for target_name in TARGETS:

    rule:
        name:
            f"prune_{target_name}"
        input:
            PRUNED[target_name].values(),
