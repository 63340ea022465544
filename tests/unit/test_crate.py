"""The RO-Crate of a run, from made-up records of Snakemake."""

import hashlib
import json
from types import SimpleNamespace

import pytest
from rocrate.rocrate import ROCrate
from snakemake.persistence import MetadataRecord

import write_crate

ENGINE = {"commit": "c" * 40, "patch_sha256": "d" * 64, "compiler": "c++ 1.0", "flags": ["-DONE=1"]}


def record(rule: str, inputs: list[str], start: float, end: float) -> MetadataRecord:
    return MetadataRecord(
        rule=rule, input=inputs, log=[f"{rule}.log"], params=["'a'", "1"], starttime=start, endtime=end
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder in which two jobs ran: convert made two files, of which pack took one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/some").mkdir(parents=True)
    for name in ("checkpoint", "results/some/mmproj.gguf", "results/some/twin.gguf", "Snakefile"):
        (tmp_path / name).write_text(name)
    convert = (["checkpoint"], 1000.0, 1010.0)
    records = {
        "bf16.gguf": record("convert", *convert),  # temporary: gone
        "results/some/mmproj.gguf": record("convert", convert[0], 1000.0, 1010.5),
        "results/some/twin.gguf": record("pack", ["bf16.gguf", "results/some/mmproj.gguf"], 1020.0, 1030.0),
    }
    return SimpleNamespace(metadata=lambda path: records.get(str(path)))


def describe(run) -> dict[str, dict]:
    jobs = write_crate.read_jobs(run, ["results/some/twin.gguf"])
    known = write_crate.hash_files(write_crate.files_of(jobs))
    params = SimpleNamespace(title="Some", license="MIT", version="1.2", config={"model": {"name": "some"}})
    text = write_crate.describe(write_crate.Path("results/some"), jobs, known, ENGINE, params)
    write_crate.Path("results/some/ro-crate-metadata.json").write_text(text)
    write_crate.Path("results/some/Snakefile").write_text("")
    return {entity["@id"]: entity for entity in json.loads(text)["@graph"]}


def ids(value) -> list[str]:
    return [entry["@id"] for entry in (value if isinstance(value, list) else [value])]


def test_jobs_come_in_their_order_with_all_their_outputs(run):
    jobs = write_crate.read_jobs(run, ["results/some/twin.gguf"])
    assert [(job.rule, sorted(job.outputs), job.started, job.ended) for job in jobs] == [
        ("convert", ["bf16.gguf", "results/some/mmproj.gguf"], 1000.0, 1010.5),
        ("pack", ["results/some/twin.gguf"], 1020.0, 1030.0),
    ]


def test_the_graph_leads_from_the_twin_to_the_checkpoint(run):
    graph = describe(run)
    pack = next(
        entity for entity in graph.values() if "twin.gguf" in ids(entity.get("result", [])) and entity["@id"] != "#run"
    )
    assert pack["startTime"] == "1970-01-01T00:17:00+00:00"
    assert {"mmproj.gguf", "#bf16.gguf"} <= set(ids(pack["object"]))
    convert = next(entity for entity in graph.values() if "#bf16.gguf" in ids(entity.get("result", [])))
    assert "#checkpoint" in ids(convert["object"])
    assert graph[ids(convert["instrument"])[0]]["softwareVersion"] == "1.2"
    assert graph["twin.gguf"]["sha256"] == hashlib.sha256(b"results/some/twin.gguf").hexdigest()
    assert graph["#checkpoint"]["contentSize"] == "10"
    assert "sha256" not in graph["#bf16.gguf"]


def test_the_run_names_versions_settings_and_machine(run):
    graph = describe(run)
    assert set(ids(graph["#run"]["result"])) == {"mmproj.gguf", "twin.gguf"}
    assert "#checkpoint" in ids(graph["#run"]["object"])
    assert json.loads(graph["#config/model"]["value"]) == {"name": "some"}
    assert "#machine/cpu" in ids(graph["#run"]["environment"])
    assert ENGINE["patch_sha256"] in graph["#llama.cpp"]["description"]
    assert graph["Snakefile"]["version"] == "1.2"


def test_the_library_reads_it(run):
    describe(run)
    crate = ROCrate("results/some")
    assert crate.mainEntity.id == "Snakefile"
    assert {entity.id for entity in crate.data_entities} >= {"twin.gguf", "mmproj.gguf", "Snakefile"}
