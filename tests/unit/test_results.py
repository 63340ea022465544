"""Result files: what is written is read again, and says where it comes from."""

import json
from types import SimpleNamespace

import pytest

from phase_twin import results
from phase_twin.errors import UserError
from phase_twin.files import sha256_file, write_digest
from phase_twin.results import read_result, write_result
from phase_twin.version import VERSION


@pytest.fixture
def rule(tmp_path, monkeypatch) -> SimpleNamespace:
    """A job that read a small file, a large one whose digest is recorded, a folder and a program."""
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"commit": "c0ffee", "patch_sha256": "5a5a", "origin": "git"}))
    monkeypatch.setattr(results, "SOURCE_MANIFEST", source)
    small, large, program = (tmp_path / name for name in ("small.txt", "large.gguf", "llama-bench"))
    for path in (small, large, program):
        path.write_text(path.name)
    program.chmod(0o755)
    write_digest(large, f"{large}.sha256")
    large.write_text("not read again")
    inputs = [str(path) for path in (small, large, f"{large}.sha256", program, tmp_path)]
    return SimpleNamespace(input=inputs, config={"model": {"name": "some"}})


@pytest.mark.parametrize("result", [{"rows": [1], "more": 2}, {"kld": 0.1}, [{"kld": 0.1}, {"kld": 0.2}], []])
def test_what_is_written_is_read_again(rule, tmp_path, result):
    write_result(tmp_path / "result.json", result, rule)
    assert read_result(tmp_path / "result.json") == result


def test_where_it_comes_from(rule, tmp_path):
    write_result(tmp_path / "result.json", {"kld": 0.1}, rule)
    made_by = json.loads((tmp_path / "result.json").read_text())["made_by"]
    small, large = rule.input[:2]
    assert made_by["pipeline"] == VERSION
    assert made_by["engine"] == {"commit": "c0ffee", "patch_sha256": "5a5a"}
    assert made_by["inputs"].keys() == {small, large}
    assert made_by["inputs"][small] == sha256_file(small)
    assert made_by["inputs"][large] != sha256_file(large)
    assert {"python", "snakemake"} < made_by["tools"].keys()
    assert made_by["machine"]["threads"] > 0


def test_another_setting_is_another_hash(rule):
    before = results.made_by(rule)["config_sha256"]
    rule.config["model"]["name"] = "other"
    assert results.made_by(rule)["config_sha256"] != before


def test_a_damaged_result_is_refused(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"rows": [')
    with pytest.raises(UserError, match=r"result\.json: not JSON .*run again"):
        read_result(path)
