# Requires: the orders of promotion, the twin, which can take any of them, the reference logits.
# Makes: curve.json (bytes -> KLD, predicted and measured, for the order of the twin); study/ranking.json, all orders
# beside each other.


rule measure_order:
    input:
        program=measured_engine("llama-perplexity"),
        twin=rules.pack_twin.output.twin,
        verified=rules.verify_twin.output.report,
        order=rules.rank_groups.output.order,
        logits=rules.write_reference_logits.output.logits,
    output:
        row=results("bench/orders/{method}-{percent}.json"),
        positions=results("bench/orders/{method}-{percent}.npz"),
    log:
        main=logs("order-{method}-{percent}.log"),
        tool=logs("order-{method}-{percent}-tool.log"),
    benchmark:
        benchmarks("order-{method}-{percent}")
    wildcard_constraints:
        method="|".join(METHODS),
        percent=r"\d+",
    conda:
        "../envs/pipeline.yaml"
    threads: THREADS
    resources:
        **CARD,
        mem_mb=size_mb(0.4, 2000),
        disk_mb=10,
        runtime=minutes(5),
    params:
        backend=CFG.engine.backend,
        percent=lambda wildcards: int(wildcards.percent),
        reference=CFG.bench.quality.reference,
        documents=CFG.bench.quality.documents,
        n_ctx=CFG.bench.quality.n_ctx,
        chunks=CFG.bench.quality.chunks,
    message:
        "Measure the order {wildcards.method} at {wildcards.percent} % of full promotion"
    script:
        "../scripts/measure_mix.py"


if len(PARTS) > 1:

    use rule measure_order as measure_order_part with:
        output:
            part=temp(model_resources("orders/{method}-{percent}-{part}.kldpart")),
            ran=temp(model_resources("orders/{method}-{percent}-{part}.json")),
        log:
            main=logs("orders/{method}-{percent}-{part}.log"),
            tool=logs("orders/{method}-{percent}-{part}-tool.log"),
        benchmark:
            benchmarks("orders/{method}-{percent}-{part}")
        params:
            **PART,
        message:
            "Measure the order {wildcards.method} at {wildcards.percent} %, part {wildcards.part}"

    use rule measure_order as merge_order with:
        input:
            program=measured_engine("llama-perplexity"),
            twin=rules.pack_twin.output.twin,
            order=rules.rank_groups.output.order,
            logits=rules.write_reference_logits.output.logits,
            parts=expand(
                rules.measure_order_part.output.part, part=PARTS, allow_missing=True
            ),
            ran=expand(
                rules.measure_order_part.output.ran, part=PARTS, allow_missing=True
            ),
        benchmark:
            benchmarks("merge-order-{method}-{percent}")
        threads: 1
        resources:
            mem_mb=1000,
            disk_mb=10,
            runtime=10,
        message:
            "Put together the order {wildcards.method} at {wildcards.percent} %"

    ruleorder: merge_order > measure_order


def of_phases(output):
    """What was measured of both phases, the ends of every curve; `output` is a path of measure_quality's."""
    return expand(output, label=PHASES)


def of_orders(output, methods):
    """What was measured of orders at each percentage; `output` is a path of measure_order's."""
    return expand(output, method=methods, percent=CFG.rank.curve)


rule gather_curve:
    input:
        phases=of_phases(rules.measure_quality.output.row),
        phase_positions=of_phases(rules.measure_quality.output.positions),
        order=order_of(CFG.rank.method),
        rows=of_orders(rules.measure_order.output.row, CFG.rank.method),
        positions=of_orders(rules.measure_order.output.positions, CFG.rank.method),
    output:
        curve=results("curve.json"),
        plot=report(
            results("curve.svg"),
            caption="../report/curve.rst",
            category="Pictures",
            labels={"picture": "What each further byte buys"},
        ),
        png=results("curve.png"),
    log:
        main=logs("gather-curve.log"),
    benchmark:
        benchmarks("gather-curve")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
    message:
        "Gather the curve of quality over bytes"
    script:
        "../scripts/gather_curve.py"


rule gather_ranking:
    input:
        phases=of_phases(rules.measure_quality.output.row),
        phase_positions=of_phases(rules.measure_quality.output.positions),
        orders=[order_of(method) for method in METHODS],
        rows=of_orders(rules.measure_order.output.row, METHODS),
        positions=of_orders(rules.measure_order.output.positions, METHODS),
    output:
        table=results("study/ranking.json"),
        plot=report(
            results("study/ranking.svg"),
            caption="../report/study_ranking.rst",
            category="Studies",
            labels={"picture": "Orders of promotion"},
        ),
    log:
        main=logs("gather-ranking.log"),
    benchmark:
        benchmarks("gather-ranking")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
        percents=CFG.rank.curve,
        compare_to=CFG.rank.method,
    message:
        "Gather the study of orders"
    script:
        "../scripts/gather_ranking.py"


rule study_ranking:
    input:
        rules.gather_ranking.output,
