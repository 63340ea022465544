"""Record where a twin comes from: versions and hashes of everything that decides its bytes."""

import json
from pathlib import Path
from typing import Any

from phase_twin.files import check_digest, sha256_file, write_text
from phase_twin.rule import run_rule


def collect(engine: dict[str, Any], files: dict[str, str], config_hash: str, version: str) -> dict[str, str]:
    """Return the provenance keys of the twin (without their phase_twin. prefix).

    Parameters
    ----------
    engine
        the build's facts (commit, patch_sha256).
    files
        name -> path of each input whose SHA-256 is recorded.
    """
    hashes = {f"{name}_sha256": sha256_file(path) for name, path in files.items()}
    return {
        "pipeline_version": version,
        "engine_commit": engine["commit"],
        "patch_sha256": engine["patch_sha256"],
        "config_sha256": config_hash,
        **hashes,
    }


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    given = snakemake.input
    for path, digest in ((given.model, given.model_digest), (given.imatrix, given.imatrix_digest)):
        check_digest(path, digest)
    engine = json.loads(Path(snakemake.input.engine).read_text())
    files = {name: snakemake.input[name] for name in ("model", "imatrix", "calibration")}
    facts = collect(engine, files, snakemake.params.config_hash, snakemake.params.version)
    write_text(snakemake.output.facts, json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
