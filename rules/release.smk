# Requires: everything a release shows or carries.
# Makes: results/MODEL/release, ready to upload.
from phase_twin.community import row_files
from phase_twin.licenses import cannot_carry
from phase_twin.signing import require_signer

TOOLS["make_release"] = partial(require_signer, CFG.release.sign)


def text_name(reference):
    """What the model card calls a corpus."""
    return Path(reference.removeprefix(LOCAL)).name


def tools_license(wildcards):
    """Licence of the tools; refuses at once where the release could not carry that of the weights."""
    if reason := cannot_carry(CFG.model.license):
        raise WorkflowError(reason)
    return project("LICENSE")


rule make_release:
    input:
        **tower_files(),
        twin=rules.pack_twin.output.twin,
        verified=rules.verify_twin.output.report,
        quality=rules.gather_quality.output.table,
        speed=rules.measure_speed.output.speed,
        curve=rules.gather_curve.output.curve,
        kinds=KIND_TABLE,
        pictures=[rules.gather_curve.output.png, rules.gather_quality.output.png],
        calibration=rules.rank_layers.output.calibration,
        provenance=rules.write_provenance.output.facts,
        pruned=[PRUNED[name]["gguf"] for name in TARGETS],
        selections=[PRUNED[name]["selection"] for name in TARGETS],
        patches=PATCHES,
        templates=sorted(map(str, Path(project("release")).iterdir())),
        prune_tool=PRUNE_TOOL,
        license=tools_license,
        community=list(map(str, row_files(Path(project(""))))),
    output:
        # the last file written stands for the folder
        sums=results("release/SHA256SUMS"),
    log:
        main=logs("release.log"),
    benchmark:
        benchmarks("release")
    conda:
        "../envs/pipeline.yaml"
    resources:
        mem_mb=1000,
        disk_mb=size_mb(0.55),
        runtime=minutes(0.5),
    params:
        model={
            "title": CFG.model.title,
            "license": CFG.model.license,
            "repo": hub_repository(),
        },
        engine=SOURCES.engine.model_dump(),
        # the twin tells which it is
        variants={
            kind: [recipe.describe() for recipe in pair]
            for kind, pair in CFG.kinds.items()
        },
        stock={name: CFG.study.recipes[name].describe() for name in CFG.bench.compare},
        targets=[target.model_dump() for target in CFG.prune_targets],
        release=CFG.release.model_dump(include={"sign", "repo"}),
        texts={
            "calibration": text_name(CFG.imatrix.corpus),
            "evaluation": text_name(CFG.bench.quality.corpus),
        },
    message:
        "Put the release folder together"
    script:
        "../scripts/make_release.py"


rule release:
    input:
        rules.make_release.output,


def release_to_upload(wildcards):
    """The release; refuses at once where it is not said where to."""
    if CFG.release.repo is None:
        raise WorkflowError(
            "release.repo is not set; name the repository on the hub there: OWNER/NAME"
        )
    return rules.make_release.output.sums


rule release_upload:
    input:
        sums=release_to_upload,
    output:
        record=results("upload.json"),
    log:
        main=logs("upload.log"),
    conda:
        "../envs/pipeline.yaml"
    params:
        repo=CFG.release.repo,
        private=CFG.release.private,
        message=f"{CFG.model.title} phase twin, made by pipeline {VERSION}",
    message:
        "Upload the release to the hub"
    script:
        "../scripts/upload_release.py"


use rule release_upload as release_upload_dry_run with:
    output:
        [],
    log:
        main=logs("upload-dry-run.log"),
    message:
        "Compare the release with what the hub has"
