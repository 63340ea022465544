# Requires: the variants, the BF16 model, the imatrix, the calibration text.
# Makes: rank/METHOD.json, an order of promotion for each way to tell what a group is worth, and for the one that the
# twin gets the curve of quality over bytes.
from phase_twin.config import RankMethod
from phase_twin.experts import units
from typing import get_args

METHODS = get_args(RankMethod)
FROM_FILES = [method for method in METHODS if method != "measured"]
UNITS = units(CFG.model.expert_layers, CFG.rank.tie_gate_up)
# mix -> the groups that are promoted: nothing, everything, one unit, all but one
ALL_GROUPS = [name for names in UNITS.values() for name in names]
MIXES = (
    {"none": [], "all": ALL_GROUPS}
    | {f"only-{unit}": names for unit, names in UNITS.items()}
    | {
        f"without-{unit}": [name for name in ALL_GROUPS if name not in names]
        for unit, names in UNITS.items()
    }
)


def reference_model(wildcards):
    if CFG.bench.quality.reference == "BF16":
        return rules.convert_checkpoint.output.model
    return quantized("reference")


rule score_groups:
    input:
        variants=variants,
        imatrix=rules.compute_imatrix.output.imatrix,
        model=rules.convert_checkpoint.output.model,
    output:
        scores=results("rank/scores-{method}.json"),
    log:
        main=logs("score-{method}.log"),
    benchmark:
        benchmarks("score-{method}")
    wildcard_constraints:
        method="|".join(FROM_FILES),
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=10,
        runtime=minutes(5),
    params:
        method=lambda wildcards: wildcards.method,
    message:
        "Score the groups by {wildcards.method}"
    script:
        "../scripts/score_groups.py"


rule rank_groups:
    input:
        variants=variants,
        scores=results("rank/scores-{method}.json"),
    output:
        order=results("rank/{method}.json"),
    log:
        main=logs("rank-{method}.log"),
    benchmark:
        benchmarks("rank-{method}")
    wildcard_constraints:
        method="|".join(METHODS),
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=10,
        runtime=10,
    params:
        layers=list(CFG.model.expert_layers),
        tie_gate_up=CFG.rank.tie_gate_up,
    message:
        "Rank the groups by {wildcards.method}: most benefit per byte first"
    script:
        "../scripts/rank_groups.py"


def order_of(method):
    """Path of an order of promotion."""
    return str(rules.rank_groups.output.order).format(method=method)


def last_uses_of_bf16(wildcards):
    """What else is made of the BF16 model, which `disk.lean` has gone before a twin takes its place on the disk."""
    if not CFG.disk.lean:
        return []
    logits = [rules.write_reference_logits.output.logits]
    if CFG.rank.method == "measured":
        logits.append(rules.write_rank_logits.output.logits)
    compared = [quantized(name) for name in (*COMPARED, *SIBLING_FILES)]
    return [*compared, *logits, rules.write_provenance.output.facts]


# a twin in any order serves to measure mixes; the order of the real one follows from them
rule pack_draft:
    input:
        variants=variants,
        digests=variant_digests,
        order=order_of("first_layers"),
        provenance=[],
        after=last_uses_of_bf16,
    output:
        twin=temp(model_resources("draft-twin.gguf")),
        digest=temp(model_resources("draft-twin.gguf.sha256")),
    log:
        main=logs("pack-draft.log"),
    benchmark:
        benchmarks("pack-draft")
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
        "Pack a twin to measure with"
    script:
        "../scripts/pack_twin.py"


# on the text for calibration: that for evaluation must not decide anything
rule write_rank_logits:
    input:
        program=engine("llama-perplexity"),
        model=reference_model,
        corpus=text_path(CFG.imatrix.corpus),
    output:
        logits=temp(model_resources("rank.kld")),
    log:
        main=logs("rank-logits.log"),
        tool=logs("rank-logits-tool.log"),
    benchmark:
        benchmarks("rank-logits")
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        mem_mb=size_mb(1.1, 2000),
        disk_mb=size_mb(0.1),
        runtime=minutes(5),
    params:
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.rank.chunks,
        setting="rank.chunks",
        shared=False,
    message:
        "Write the logits of the reference model over the calibration text"
    script:
        "../scripts/write_reference_logits.py"


rule measure_mix:
    input:
        program=measured_engine("llama-perplexity"),
        twin=rules.pack_draft.output.twin,
        logits=rules.write_rank_logits.output.logits,
    output:
        row=results("rank/mixes/{mix}.json"),
        positions=results("rank/mixes/{mix}.npz"),
    log:
        main=logs("mix-{mix}.log"),
        tool=logs("mix-{mix}-tool.log"),
    benchmark:
        benchmarks("mix-{mix}")
    wildcard_constraints:
        mix="|".join(MIXES),
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **CARD,
        mem_mb=size_mb(0.4, 2000),
        disk_mb=10,
        runtime=minutes(2),
    params:
        backend=CFG.engine.backend,
        promoted=lambda wildcards: MIXES[wildcards.mix],
        reference=CFG.bench.quality.reference,
        documents=None,
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.rank.chunks,
    message:
        "Measure the twin, promoted: {wildcards.mix}"
    script:
        "../scripts/measure_mix.py"


rule score_measured:
    input:
        rows=expand(rules.measure_mix.output.row, mix=MIXES),
        positions=expand(rules.measure_mix.output.positions, mix=MIXES),
    output:
        scores=results("rank/scores-measured.json"),
    log:
        main=logs("score-measured.log"),
    benchmark:
        benchmarks("score-measured")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        together=UNITS,
    message:
        "Fit what each group is worth to the measurements"
    script:
        "../scripts/score_measured.py"
