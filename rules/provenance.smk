# Requires: everything else, and Snakemake's record of it.
# Makes: ro-crate-metadata.json, the graph of what was made of what, by which job, where and when.


rule write_crate:
    input:
        last=[*rules.report_parts.input, rules.make_release.output.sums],
        engine=rules.build_engine.output.facts,
        snakefile=project("Snakefile"),
    output:
        crate=results("ro-crate-metadata.json"),
        workflow=results("Snakefile"),
    log:
        main=logs("crate.log"),
    benchmark:
        benchmarks("crate")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=10,
        runtime=minutes(1),
    params:
        title=CFG.model.title,
        license=CFG.model.license,
        version=VERSION,
        engine=SOURCES.engine.git,
        config=CFG.model_dump(),
        project=project(""),
    message:
        "Export the provenance of the run"
    script:
        "../scripts/write_crate.py"
