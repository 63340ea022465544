# From a Hugging Face checkpoint to a phase twin: one GGUF, its experts at two precisions.
from snakemake.utils import min_version

min_version("9.0")


localrules:
    release_upload,
    release_upload_dry_run,


include: "rules/common.smk"
include: "rules/engine.smk"
include: "rules/sycl.smk"
include: "rules/vulkan.smk"
include: "rules/retrieve.smk"
include: "rules/convert.smk"
include: "rules/imatrix.smk"
include: "rules/quantize.smk"
include: "rules/rank.smk"
include: "rules/twin.smk"
include: "rules/prune.smk"
include: "rules/bench.smk"
include: "rules/kinds.smk"
include: "rules/arc.smk"
include: "rules/cpu.smk"
include: "rules/codebooks.smk"
include: "rules/ranking.smk"
include: "rules/release.smk"
include: "rules/report.smk"
include: "rules/provenance.smk"


report: "report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.release.input,
        rules.report_parts.input,
        rules.write_crate.output,
        rules.test_engine.output,


onstart:
    refuse_hopeless_start()
    refuse_missing_tools()


onsuccess:
    print_made()
