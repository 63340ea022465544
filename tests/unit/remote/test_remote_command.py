"""The command line with an address."""

import json
import subprocess
import sys

import pytest

from phase_twin.single_file import single_file
from remote_twin import NAME, REPO, pruned_locally, run, selected_nbytes
from small_run import ROOT


def test_command_line(hub, url, twin, out, tmp_path, capfd):
    done = run(capfd, "--dual", url, "--out", out, "--variant", "1", "--verify")
    assert (done.code, done.stderr) == (0, "")
    assert f"wrote {out}" in done.stdout
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_the_one_file_of_a_release_fetches(hub, url, twin, out, tmp_path):
    (tmp_path / "prune-dual.py").write_bytes(single_file(ROOT / "scripts/prune-dual.py", ROOT / "scripts/prune_dual"))
    command = [sys.executable, "-I", "prune-dual.py", "--dual", url, "--out", str(out), "--variant", "1", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["selected_bytes"] == selected_nbytes(twin, variant=1)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_without_a_manifest_it_says_so(hub, url, out, capfd, caplog):
    del hub.files["files/manifest.json"]
    assert run(capfd, "--dual", url, "--out", out, "--variant", "0").code == 0
    assert "no manifest.json: not verified" in caplog.text
    done = run(capfd, "--dual", url, "--out", out, "--variant", "0", "--verify", "--force")
    assert done.code == 1
    assert "--verify needs a manifest" in done.stderr


@pytest.mark.parametrize("where", ["path", "url", "hub"])
def test_a_manifest_from_elsewhere(hub, url, twin, out, tmp_path, capfd, where):
    text = hub.files.pop("files/manifest.json")
    (tmp_path / "m.json").write_bytes(text)
    hub.files["m.json"] = text
    hub.commit(REPO, {"m.json": text})
    given = {"path": tmp_path / "m.json", "url": f"{hub.url}/m.json", "hub": f"hf://{REPO}/m.json"}[where]
    done = run(capfd, "--dual", url, "--out", out, "--variant", "0", "--verify", "--manifest", given)
    assert (done.code, done.stderr) == (0, "")


def test_a_given_manifest_must_be_there(hub, url, out, tmp_path, capfd):
    for given, words in ((tmp_path / "no.json", "No such file"), (f"{hub.url}/no.json", "HTTP 404")):
        done = run(capfd, "--dual", url, "--out", out, "--variant", "0", "--manifest", given)
        assert done.code == 1
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
    assert not list(out.parent.iterdir())


def test_a_missing_package_is_one_sentence(hub, url, out, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    done = run(capfd, "--dual", url, "--out", out, "--variant", "1")
    assert done.code == 1
    assert done.stderr == (
        f"prune-dual: the Python package requests is missing, which fetches {url}: pip install requests\n"
    )
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = run(capfd, "--dual", f"hf://{REPO}/{NAME}", "--out", out, "--variant", "1")
    assert done.stderr.endswith(": pip install huggingface_hub\n")
