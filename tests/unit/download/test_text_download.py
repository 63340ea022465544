"""Texts from a server on 127.0.0.1, with its faults."""

import pytest

from downloads import TEXT, edit, get_text, lock_path, run_as_rule, sha256
from phase_twin import fetch
from phase_twin.errors import UserError
from phase_twin.sources_lock import load_lock


@pytest.mark.parametrize("name", ["open", "pinned", "member"])
def test_text(hub, sources, tmp_path, name):
    output = tmp_path / "resources" / "texts" / "text.txt"
    run = run_as_rule("download_text", name, sources, output, tmp_path)
    assert run.returncode == 0, run.stderr
    assert output.read_bytes() == TEXT
    assert [path.name for path in output.parent.iterdir()] == ["text.txt"]
    locked = load_lock(lock_path(sources)).texts
    assert set(locked) == ({"open"} if name == "open" else set())
    if locked:
        assert (locked["open"].bytes, locked["open"].sha256) == (len(TEXT), sha256(TEXT))


@pytest.mark.parametrize(("name", "no_etag"), [("open", False), ("open", True), ("pinned", True), ("member", False)])
def test_text_over_a_cut_connection(hub, sources, tmp_path, name, no_etag):
    hub.faults.cut_after = {"plain.txt": 200_000, "archive.zip": 20_000}
    hub.faults.no_etag = no_etag
    get_text(sources, name, tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == TEXT
    last = hub.requests[-1]
    # without an ETag and without a known hash nothing tells that the rest is of the same file
    assert last.status == (200 if name == "open" and no_etag else 206)
    assert ("If-Range" in last.headers) == (not no_etag)


def test_text_that_changed_between_two_runs(hub, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    hub.faults.cut_after = {"plain.txt": 200_000}
    with pytest.raises(UserError):
        get_text(sources, "open", tmp_path / "text.txt")
    hub.files["texts/plain.txt"] = TEXT[::-1]
    get_text(sources, "open", tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == TEXT[::-1]
    assert [r.status for r in hub.requests] == [200, 200]  # If-Range failed: all of it


def test_text_lock_conflict(hub, sources, tmp_path):
    output = tmp_path / "text.txt"
    get_text(sources, "open", output)
    hub.files["texts/plain.txt"] = TEXT.replace(b"text", b"TEXT")
    with pytest.raises(UserError) as error:
        get_text(sources, "open", tmp_path / "again.txt")
    assert str(error.value) == (
        f"texts.open: SHA-256 is {sha256(hub.files['texts/plain.txt'])}, but {lock_path(sources)} says {sha256(TEXT)}; "
        f"delete the entry texts.open of {lock_path(sources)} to accept the new revision"
    )
    assert not (tmp_path / "again.txt").exists()
    assert output.read_bytes() == TEXT
    lock_path(sources).unlink()
    get_text(sources, "open", output)
    assert output.read_bytes() == hub.files["texts/plain.txt"]


@pytest.mark.parametrize("name", ["pinned", "member"])
def test_text_of_wrong_size_or_hash(hub, sources, tmp_path, name):
    edit(sources, "texts", name, bytes=len(TEXT) - 1)
    with pytest.raises(
        UserError, match=rf"^texts\.{name}: size is {len(TEXT)}, but .*sources.yaml says {len(TEXT) - 1};"
    ):
        get_text(sources, name, tmp_path / "text.txt")
    edit(sources, "texts", name, bytes=len(TEXT), sha256="0" * 64)
    with pytest.raises(UserError, match=rf"^texts\.{name}: SHA-256 is .*sources.yaml says 0000"):
        get_text(sources, name, tmp_path / "text.txt")
    assert not (tmp_path / "text.txt").exists()


def test_text_faults_of_an_archive(hub, sources, tmp_path):
    edit(sources, "texts", "member", member="no/such.txt")
    with pytest.raises(UserError, match=r"texts\.member from .*: the archive has no member 'no/such\.txt'"):
        get_text(sources, "member", tmp_path / "text.txt")
    hub.files["texts/archive.zip"] = b"<html>not today</html>"
    with pytest.raises(UserError, match="not a readable zip archive"):
        get_text(sources, "member", tmp_path / "text.txt")
    assert not (tmp_path / "text.txt").exists()


def test_text_that_is_not_there(hub, sources, tmp_path):
    edit(sources, "texts", "open", url=f"{hub.url}/texts/gone.txt?key=hidden")
    with pytest.raises(UserError, match=r"gone\.txt: HTTP 404 Not Found") as error:
        get_text(sources, "open", tmp_path / "text.txt")
    assert "hidden" not in str(error.value)


def test_urls_of_the_hub_follow_the_endpoint(hub, sources, tmp_path):
    hub.files["datasets/some/archive.txt"] = TEXT
    edit(sources, "texts", "pinned", url="https://huggingface.co/datasets/some/archive.txt")
    get_text(sources, "pinned", tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_bytes() == TEXT
