# Requires: the network and config/sources.yaml; what is found first is pinned in config/sources.lock.yaml.
# Makes: resources/checkpoints/NAME and resources/texts/NAME.txt. `local:` paths need neither. The lock belongs to what was
# downloaded: it stands in the folder that the workflow runs in.
SOURCES_LOCK = "config/sources.lock.yaml"


rule retrieve_checkpoint:
    output:
        disposable(directory(resources("checkpoints/{name}"))),
    log:
        main="logs/retrieve/checkpoint-{name}.log",
    benchmark:
        "benchmarks/retrieve/checkpoint-{name}.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        disk_mb=size_mb(1.05),
        runtime=minutes(10, 30),
    params:
        sources=SOURCES_FILE,
        lock=SOURCES_LOCK,
    message:
        "Download the checkpoint {wildcards.name}"
    script:
        "../scripts/download_checkpoint.py"


rule retrieve_text:
    output:
        resources("texts/{name}.txt"),
    log:
        main="logs/retrieve/text-{name}.log",
    benchmark:
        "benchmarks/retrieve/text-{name}.tsv"
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=500,
        disk_mb=50,
        runtime=10,
    params:
        sources=SOURCES_FILE,
        lock=SOURCES_LOCK,
    message:
        "Download the text {wildcards.name}"
    script:
        "../scripts/download_text.py"
