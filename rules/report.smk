# Requires: what was measured, and the benchmark files of all rules.
# Makes: report/, the pictures and tables that no other rule makes; `snakemake --report FILE.html` puts all in one page.


rule draw_sensitivity:
    input:
        order=order_of(CFG.rank.method),
    output:
        plot=report(
            results("report/sensitivity.svg"),
            caption="../report/sensitivity.rst",
            category="Pictures",
            labels={"picture": "Sensitivity of layers"},
        ),
    log:
        main=logs("draw-sensitivity.log"),
    benchmark:
        benchmarks("draw-sensitivity")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
    message:
        "Draw what promoting each group is worth"
    script:
        "../scripts/draw_sensitivity.py"


rule draw_speed:
    input:
        speed=rules.measure_speed.output.speed,
    output:
        plot=report(
            results("report/speed.svg"),
            caption="../report/speed.rst",
            category="Pictures",
            labels={"picture": "Speed"},
        ),
    log:
        main=logs("draw-speed.log"),
    benchmark:
        benchmarks("draw-speed")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
        ours=list(OURS),
    message:
        "Draw the speed"
    script:
        "../scripts/draw_speed.py"


# of every rule above; a pattern stands for all jobs of its rule
BENCHMARK_FILES = OWN_BENCHMARKS | {
    one.name: one.benchmark.regex().pattern for one in workflow.rules if one.benchmark
}


rule gather_timing:
    input:
        # what is made last: the benchmark files themselves are read from their folder as they are
        release=rules.make_release.output.sums,
        tests=rules.test_engine.output.report,
        pictures=[rules.draw_sensitivity.output.plot, rules.draw_speed.output.plot],
    output:
        table=results("report/timing.json"),
        plot=report(
            results("report/timing.svg"),
            caption="../report/timing.rst",
            category="Pictures",
            labels={"picture": "Time and memory of the rules"},
        ),
    log:
        main=logs("gather-timing.log"),
    benchmark:
        benchmarks("gather-timing")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    params:
        title=CFG.model.title,
        folder="benchmarks",
        patterns=BENCHMARK_FILES,
    message:
        "Gather time and memory of every rule"
    script:
        "../scripts/gather_timing.py"


def page(name, label):
    """A table as a page of the report."""
    return report(
        results(f"report/{name}.html"),
        caption=f"../report/{name}.rst",
        category="Tables",
        labels={"table": label},
    )


rule write_tables:
    input:
        quality=rules.gather_quality.output.table,
        speed=rules.measure_speed.output.speed,
        curve=rules.gather_curve.output.curve,
        kinds=KIND_TABLE,
        timing=rules.gather_timing.output.table,
    output:
        **(
            {"kinds": page("kinds", "Where the 4-bit phase stands")}
            if KIND_TABLE
            else {}
        ),
        quality=page("quality", "Quality"),
        speed=page("speed", "Speed"),
        curve=page("curve", "What each further byte buys"),
        timing=page("timing", "Time and memory of the rules"),
    log:
        main=logs("write-tables.log"),
    benchmark:
        benchmarks("write-tables")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=10,
    message:
        "Write the tables of the report"
    script:
        "../scripts/write_tables.py"


rule report_parts:
    input:
        rules.gather_quality.output,
        rules.gather_curve.output,
        rules.draw_sensitivity.output,
        rules.draw_speed.output,
        rules.gather_timing.output,
        rules.write_tables.output,
