"""The RO-Crate of a run keeps the profiles that it names, by a validator that is not ours."""

import json

import pytest

from crate_records import describe, make_up_run

pytestmark = pytest.mark.validator

PROFILES = {"ro-crate-1.1", "process-run-crate-0.5", "workflow-run-crate-0.5"}
# RECOMMENDED, and left out for a reason
LEFT_OUT = {
    "`author` of the RO-Crate": "who had the run done is not recorded",
    "`publisher` property": "nor who publishes it",
    "SHOULD have an agent": "the same",
    "Application SHOULD have a url": "rules and Snakefile have no page of their own",
    "id SHOULD be an absolute URI": "the same; a file of the crate cannot have one",
    "README.md SHOULD": "no file of the crate",
    "Bioschemas ComputationalWorkflow profile": "it asks for creator, date and ports of the workflow",
}


def unexpected(found: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [
        issue
        for issues in found.values()
        for issue in issues
        if issue["severity"] != "RECOMMENDED" or not any(part in issue["message"] for part in LEFT_OUT)
    ]


def test_a_small_crate_keeps_its_profiles(tmp_path, monkeypatch, validate_crate):
    monkeypatch.chdir(tmp_path)
    describe(make_up_run())
    found = validate_crate(tmp_path / "results/some")
    assert found.keys() == PROFILES
    assert not unexpected(found)
    messages = [issue["message"] for issues in found.values() for issue in issues]
    for part in LEFT_OUT:
        assert any(part in message for message in messages), f"{part} is not asked for any more"


def test_the_validator_sees_what_is_missing(tmp_path, monkeypatch, validate_crate):
    monkeypatch.chdir(tmp_path)
    describe(make_up_run())
    path = tmp_path / "results/some/ro-crate-metadata.json"
    crate = json.loads(path.read_text())
    del crate["@context"][1]["environment"]
    path.write_text(json.dumps(crate))
    required = [
        issue for issue in validate_crate(path.parent)["workflow-run-crate-0.5"] if issue["severity"] == "REQUIRED"
    ]
    assert [issue["message"] for issue in required if "environment" in issue["message"]]


@pytest.mark.nano
def test_the_crate_of_the_nano_run_keeps_its_profiles(nano, validate_crate):
    assert not unexpected(validate_crate(nano))
