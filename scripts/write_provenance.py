"""Record where a twin comes from: versions and hashes of everything that decides its bytes."""

import json
from typing import Any

from phase_twin.engine import engine_identity
from phase_twin.files import check_digest, sha256_file, write_text
from phase_twin.rule import run_rule


def collect(engine: dict[str, str], hashes: dict[str, str], config_hash: str, version: str) -> dict[str, str]:
    """Return the provenance keys of the twin (without their phase_twin. prefix).

    Parameters
    ----------
    engine
        commit and patch_sha256, see `engine_identity`.
    hashes
        name -> SHA-256 of each input that is recorded.
    """
    return {
        "pipeline_version": version,
        "engine_commit": engine["commit"],
        "patch_sha256": engine["patch_sha256"],
        "config_sha256": config_hash,
        **{f"{name}_sha256": found for name, found in hashes.items()},
    }


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    given = snakemake.input
    hashes = {
        "model": check_digest(given.model, given.model_digest),
        "imatrix": check_digest(given.imatrix, given.imatrix_digest),
        "calibration": sha256_file(given.calibration),
    }
    facts = collect(engine_identity(given.engine), hashes, snakemake.params.config_hash, snakemake.params.version)
    write_text(snakemake.output.facts, json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
