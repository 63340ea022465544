"""A run of two jobs as Snakemake records it, made up, and the RO-Crate of it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

from snakemake.persistence import MetadataRecord

import write_crate

ENGINE = {"commit": "c" * 40, "patch_sha256": "d" * 64, "compiler": "c++ 1.0", "flags": ["-DONE=1"]}
PARAMS = SimpleNamespace(
    title="Some",
    license="MIT",
    version="1.2",
    engine="https://example.org/llama.cpp",
    config={"model": {"name": "some"}},
)


def record(rule: str, inputs: list[str], start: float, end: float) -> MetadataRecord:
    return MetadataRecord(
        rule=rule, input=inputs, log=[f"{rule}.log"], params=["'a'", "1"], starttime=start, endtime=end
    )


def make_up_run() -> SimpleNamespace:
    """Fill the current folder as if convert had made two files, of which pack took one; return the records."""
    os.makedirs("results/some")
    for name in ("checkpoint", "results/some/mmproj.gguf", "results/some/twin.gguf", "Snakefile"):
        Path(name).write_text(name)
    convert = (["checkpoint"], 1000.0, 1010.0)
    records = {
        "für pack.gguf": record("convert", *convert),  # temporary: gone
        "results/some/mmproj.gguf": record("convert", convert[0], 1000.0, 1010.5),
        "results/some/twin.gguf": record("pack", ["für pack.gguf", "results/some/mmproj.gguf"], 1020.0, 1030.0),
    }
    return SimpleNamespace(metadata=lambda path: records.get(str(path)))


def describe(run: SimpleNamespace) -> dict[str, dict]:
    """Write the crate of the run to results/some; return its entities by their ids."""
    jobs = write_crate.read_jobs(run, ["results/some/twin.gguf"])
    known = write_crate.hash_files(write_crate.files_of(jobs))
    text = write_crate.describe(Path("results/some"), jobs, known, ENGINE, PARAMS)
    Path("results/some/ro-crate-metadata.json").write_text(text)
    Path("results/some/Snakefile").write_text("")
    return {entity["@id"]: entity for entity in json.loads(text)["@graph"]}
