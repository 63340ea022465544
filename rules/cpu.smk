# Requires: the engine for the CPU, and any model of the architecture for vocabulary and keys (that of config/nano.yaml is
# made in seconds).
# Makes: cpu/pure.json and cpu/mixed.json, with plots: our types beside stock ones on this machine's CPU. Not part of
# `all`.
from phase_twin.engine import KERNEL_TIMES
from phase_twin.side_by_side import IN_PLACE as PLANES_IN_PLACE, KINDS as CPU_KINDS

# all matrices of one type, or as in a release: experts of the type, the rest Q6_K
FORMS = ("pure", "mixed")


def shape_experts(wildcards):
    """The type of the experts, and whether base and plane stand apart."""
    nested = wildcards.kind == PLANES_IN_PLACE
    return ["IQ4_A770", "--nested"] if nested else [wildcards.kind]


def shape_rest(wildcards):
    """The type of all other matrices."""
    return "Q6_K" if wildcards.form == "mixed" else shape_experts(wildcards)[0]


rule write_shape_model:
    input:
        template=rules.convert_checkpoint.output.model,
        tool=project("scripts/shape_model.py"),
        # one form after the other: nothing is written while speed is measured, and half the disk will do
        before=lambda wildcards: (
            results("cpu/pure.json") if wildcards.form == "mixed" else []
        ),
    output:
        gguf=temp(resources("shapes/{form}-{kind}.gguf")),
    log:
        main="logs/cpu/shapes-{form}-{kind}.log",
    benchmark:
        "benchmarks/cpu/shapes-{form}-{kind}.tsv"
    wildcard_constraints:
        form="|".join(FORMS),
        kind="|".join(CPU_KINDS),
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=3000,
        runtime=10,
    params:
        experts=shape_experts,
        rest=shape_rest,
    message:
        "Write a model of 4 layers of full size: {wildcards.form} {wildcards.kind}"
    shell:
        "python {input.tool:q} --template {input.template:q} --layers 4 --experts {params.experts:q}"
        " --rest {params.rest:q} --out {output.gguf:q} 2> {log.main:q} || {{ cat {log.main:q} >&2; exit 1; }}"


rule build_stream_read:
    input:
        source=project("scripts/stream_read.c"),
    output:
        program=resources("engine/cpu/bin/stream_read"),
    log:
        main="logs/cpu/build-stream-read.log",
    benchmark:
        "benchmarks/cpu/build-stream-read.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=500,
        disk_mb=10,
        runtime=10,
    message:
        "Build the program that measures read bandwidth"
    shell:
        "cc -O3 -march=native -pthread {input.source:q} -o {output.program:q}"
        " 2> {log.main:q} || {{ cat {log.main:q} >&2; exit 1; }}"


rule measure_cpu:
    input:
        bench=engine("llama-bench"),
        kernels=engine(KERNEL_TIMES),
        stream=rules.build_stream_read.output.program,
        models=expand(
            rules.write_shape_model.output.gguf,
            kind=CPU_KINDS,
            allow_missing=True,
        ),
    output:
        report=results("cpu/{form}.json"),
    log:
        main=logs("cpu-{form}.log"),
        tool=logs("cpu-{form}-tool.log"),
    benchmark:
        benchmarks("cpu-{form}")
    wildcard_constraints:
        form="|".join(FORMS),
    conda:
        "../envs/pipeline.yaml"
    threads: 2
    resources:
        mem_mb=18000,
        disk_mb=10,
        runtime=240,
    params:
        # the last `rounds` count once no ratio that is asked for spreads more than `spread` in them
        rounds=5,
        max_rounds=12,
        spread=0.03,
    message:
        "Measure our types beside stock ones on the CPU: {wildcards.form} models"
    script:
        "../scripts/measure_cpu.py"


rule draw_cpu:
    input:
        report=rules.measure_cpu.output.report,
    output:
        plot=results("cpu/{form}.svg"),
    log:
        main=logs("draw-cpu-{form}.log"),
    benchmark:
        benchmarks("draw-cpu-{form}")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    message:
        "Draw the speed on the CPU: {wildcards.form} models"
    script:
        "../scripts/draw_cpu.py"


rule bench_cpu:
    input:
        expand(rules.draw_cpu.output.plot, form=FORMS),
