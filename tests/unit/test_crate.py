"""The RO-Crate of a run, from made-up records of Snakemake."""

import hashlib
import json

import pytest
from rocrate.rocrate import ROCrate

import write_crate
from crate_records import ENGINE, describe, make_up_run

TEMPORARY = "#f%C3%BCr%20pack.gguf"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_up_run()


def ids(value) -> list[str]:
    return [entry["@id"] for entry in (value if isinstance(value, list) else [value])]


def test_jobs_come_in_their_order_with_all_their_outputs(run):
    jobs = write_crate.read_jobs(run, ["results/some/twin.gguf"])
    assert [(job.rule, sorted(job.outputs), job.started, job.ended) for job in jobs] == [
        ("convert", ["für pack.gguf", "results/some/mmproj.gguf"], 1000.0, 1010.5),
        ("pack", ["results/some/twin.gguf"], 1020.0, 1030.0),
    ]


def test_the_graph_leads_from_the_twin_to_the_checkpoint(run):
    graph = describe(run)
    pack = next(
        entity for entity in graph.values() if "twin.gguf" in ids(entity.get("result", [])) and entity["@id"] != "#run"
    )
    assert pack["startTime"] == "1970-01-01T00:17:00+00:00"
    assert {"mmproj.gguf", TEMPORARY} <= set(ids(pack["object"]))
    convert = next(entity for entity in graph.values() if TEMPORARY in ids(entity.get("result", [])))
    assert "#checkpoint" in ids(convert["object"])
    assert graph[ids(convert["instrument"])[0]]["softwareVersion"] == "1.2"
    assert graph["twin.gguf"]["sha256"] == hashlib.sha256(b"results/some/twin.gguf").hexdigest()
    assert graph["#checkpoint"]["contentSize"] == "10"
    assert "sha256" not in graph[TEMPORARY]


def test_the_run_names_versions_settings_and_machine(run):
    graph = describe(run)
    assert set(ids(graph["#run"]["result"])) == {"mmproj.gguf", "twin.gguf"}
    assert "#checkpoint" in ids(graph["#run"]["object"])
    assert json.loads(graph["#config/model"]["value"]) == {"name": "some"}
    assert "#machine/cpu" in ids(graph["#run"]["environment"])
    llama = graph[f"https://example.org/llama.cpp/tree/{ENGINE['commit']}"]
    assert ENGINE["patch_sha256"] in llama["description"]
    assert llama["softwareVersion"] == "ccccccccc-dddddddd"
    assert graph["Snakefile"]["version"] == "1.2"


def test_the_media_types_are_those_of_the_names(run):
    graph = describe(run)
    assert graph["Snakefile"]["encodingFormat"] == "text/plain"
    assert graph["twin.gguf"]["encodingFormat"] == "application/octet-stream"
    assert write_crate.encoding_format("results/some/curve.json") == "application/json"


def test_the_library_reads_it(run):
    describe(run)
    crate = ROCrate("results/some")
    assert crate.mainEntity.id == "Snakefile"
    assert {entity.id for entity in crate.data_entities} >= {"twin.gguf", "mmproj.gguf", "Snakefile"}


def test_files_of_a_project_elsewhere_are_named_as_in_it():
    given = write_crate.Job("fetch", 1.0, 2.0, ["'/home/me/twin/config/sources.yaml'"], ["/home/me/twin/LICENSE"])
    (job,) = write_crate.named_in_project([given], "/home/me/twin")
    assert (job.params, job.inputs) == (["'config/sources.yaml'"], ["LICENSE"])
