# Requires: everything a release shows or carries.
# Makes: results/MODEL/release, ready to upload.


rule make_release:
    input:
        twin=rules.pack_twin.output.twin,
        mmproj=rules.convert_checkpoint.output.mmproj,
        quality=rules.gather_quality.output.table,
        speed=rules.measure_speed.output.speed,
        provenance=rules.write_provenance.output.facts,
        pruned=[PRUNED[name]["gguf"] for name in TARGETS],
        patches=PATCHES,
    output:
        folder=directory(results("release")),
    log:
        main=logs("release.log"),
    message:
        "Put the release folder together"
    script:
        "../scripts/make_release.py"


rule release:
    input:
        rules.make_release.output,
