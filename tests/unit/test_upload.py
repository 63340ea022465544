"""The upload of a release, against a local hub."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

import upload_release
from gguf_files import small_twin
from hub_server import HubServer, Request
from make_release import write_hashes
from phase_twin.errors import UserError
from prune_dual import Twin, hash_gguf

REPO = "someone/Some-Model-twin-GGUF"
FILES = {"twin.gguf", "README.md", "build/build.sh", "manifest.json", "SHA256SUMS"}


@pytest.fixture
def hub(monkeypatch):
    # the plain transfer of LFS: Xet storage has its own protocol
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")
        yield server


@pytest.fixture
def rule(tmp_path):
    folder = tmp_path / "release"
    (folder / "build").mkdir(parents=True)
    small_twin(folder / "twin.gguf", groups=1)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    (folder / "build/build.sh").write_text("#!/bin/sh\n")
    seal(folder)
    return SimpleNamespace(
        input=SimpleNamespace(sums=str(folder / "SHA256SUMS")),
        output=SimpleNamespace(record=str(tmp_path / "upload.json")),
        params=SimpleNamespace(repo=REPO, private=True, message="The release"),
    )


def seal(folder: Path) -> None:
    """List all files of the release anew."""
    for name in ("manifest.json", "SHA256SUMS"):
        (folder / name).unlink(missing_ok=True)
    twin = Twin.read(folder / "twin.gguf")
    write_hashes(folder, twin, *hash_gguf(twin.gguf), None)


def folder_of(rule) -> Path:
    return Path(rule.input.sums).parent


def puts(hub) -> list[Request]:
    return [request for request in hub.requests if request.method == "PUT"]


def test_a_release_goes_up_in_one_commit(hub, rule):
    upload_release.main(rule)
    assert hub.visibility == {REPO: "private"}
    assert hub.messages == ["The release"]
    assert set(hub.head(REPO)) == FILES
    for name, content in hub.head(REPO).items():
        assert content == (folder_of(rule) / name).read_bytes()
    record = json.loads(Path(rule.output.record).read_text())
    assert record["commit"] == hub.branches[REPO]["main"]
    assert {file["name"]: file["there"] for file in record["files"]} == dict.fromkeys(FILES, "new")


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, rule, tmp_path, monkeypatch, caplog):
    hub.token = "hf_marked_token"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    caplog.set_level(logging.DEBUG)
    upload_release.main(rule)
    assert any(hub.token in value for request in hub.requests for value in request.headers.values())
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for content in (*written, *hub.head(REPO).values(), caplog.text.encode()):
        assert b"marked" not in content


def test_only_what_changed_goes_up_again(hub, rule):
    upload_release.main(rule)
    hub.commit(REPO, hub.head(REPO) | {"theirs.txt": b"stays"})
    upload_release.main(rule)
    assert hub.messages == ["The release"]  # nothing to commit
    (folder_of(rule) / "README.md").write_text("---\nlicense: mit\n---\n# new card\n")
    seal(folder_of(rule))
    upload_release.main(rule)
    assert len(hub.messages) == 2
    assert hub.head(REPO)["README.md"].endswith(b"# new card\n")
    assert hub.head(REPO)["theirs.txt"] == b"stays"
    assert len(puts(hub)) == 1


def test_a_dry_run_prints_and_changes_nothing(hub, rule, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    rule.output = []
    monkeypatch.delenv("HF_TOKEN")
    upload_release.main(rule)
    assert f"{REPO} (to be made)" in caplog.text
    assert "5 of 5 files to upload" in caplog.text
    assert all(name in caplog.text for name in FILES)
    hub.commit(REPO, {"README.md": (folder_of(rule) / "README.md").read_bytes(), "twin.gguf": b"old"})
    caplog.clear()
    upload_release.main(rule)
    assert "4 of 5 files to upload" in caplog.text
    assert [line.split()[0] for line in caplog.messages if line.endswith(("twin.gguf", "README.md"))] == [
        "same",
        "changed",
    ]
    assert not [request for request in hub.requests if request.method in ("PUT", "POST")]


def test_an_upload_that_was_cut_goes_on(hub, rule, monkeypatch):
    monkeypatch.setattr("huggingface_hub.lfs.http_backoff", once)
    (folder_of(rule) / "second.gguf").write_bytes(b"GGUF two")
    seal(folder_of(rule))
    hub.hook = lambda request: len(puts(hub)) == 2 and hub.faults.cut_after.update(PUT=3)
    with pytest.raises(UserError, match="run again to go on") as error:
        upload_release.main(rule)
    assert "\n" not in str(error.value)
    assert (len(hub.store), hub.messages) == (1, [])  # one large file is there, and no half release
    assert not Path(rule.output.record).exists()
    hub.hook = lambda request: None
    upload_release.main(rule)
    assert len(puts(hub)) == 3  # the one that was there did not go up again
    assert set(hub.head(REPO)) == FILES | {"second.gguf"}


def once(method, url, **options):
    """The client's http_backoff without its patience."""
    from huggingface_hub.utils import get_session

    options.pop("retry_on_status_codes", None)
    options.pop("retry_on_exceptions", None)
    if "data" in options:
        options["content"] = options.pop("data")
    return get_session().request(method, url, **options)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rule, hub, env: env.delenv("HF_TOKEN"), r"no token of the hub that may write to .*: log in"),
        (
            lambda rule, hub, env: env.setenv("HF_TOKEN", "hf_wrong"),
            r"HTTP 401: the token is not valid, or there is no .* that it may write to",
        ),
        (
            lambda rule, hub, env: (folder_of(rule) / "README.md").write_text("changed"),
            r"is not uploaded: README\.md: has 7 bytes",
        ),
        (lambda rule, hub, env: (folder_of(rule) / "twin.gguf").unlink(), r"is not uploaded: twin\.gguf: missing"),
    ],
)
def test_what_is_refused(hub, rule, monkeypatch, caplog, spoil, message):
    caplog.set_level(logging.DEBUG)
    spoil(rule, hub, monkeypatch)
    with pytest.raises(UserError, match=message) as error:
        upload_release.main(rule)
    assert "\n" not in str(error.value)
    assert not hub.repos
    assert "hf_" not in str(error.value) + caplog.text


def test_what_the_hub_holds_is_checked(hub, rule):
    def damage(request: Request) -> None:
        if "/commit/" in request.path:
            hub.store = dict.fromkeys(hub.store, b"damaged")

    hub.hook = damage
    with pytest.raises(UserError, match=r"does not hold what was uploaded: twin\.gguf \(1 in all\)"):
        upload_release.main(rule)
    assert not Path(rule.output.record).exists()
