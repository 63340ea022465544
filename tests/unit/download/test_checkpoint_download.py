"""Checkpoints from a hub on 127.0.0.1, with its faults."""

from types import SimpleNamespace

import pytest

from downloads import FILES, REPO, SHARD, WANTED, assert_complete, edit, get_checkpoint, lock_path, run_as_rule, sha256
from phase_twin import fetch
from phase_twin.errors import UserError
from phase_twin.sources_lock import load_lock


def test_full_download_and_lock(hub, sources, output):
    get_checkpoint(sources, output)
    assert_complete(output)
    entry = load_lock(lock_path(sources)).checkpoints["some-model"]
    assert (entry.repo, entry.revision, entry.commit) == (REPO, "main", hub.first)
    assert {name: (file.bytes, file.sha256) for name, file in entry.files.items()} == {
        name: (len(FILES[name]), sha256(FILES[name])) for name in WANTED
    }
    assert list(entry.files) == sorted(WANTED)


def test_the_lock_holds_when_the_branch_moves(hub, sources, output, tmp_path):
    get_checkpoint(sources, output)
    before = lock_path(sources).read_bytes()
    hub.commit(REPO, {**FILES, "config.json": b'{"new": true}'})
    hub.requests.clear()
    again = tmp_path / "again" / "some-model"
    get_checkpoint(sources, again)
    assert_complete(again)
    assert lock_path(sources).read_bytes() == before
    assert not [r for r in hub.requests if r.path.startswith("/api/")]  # the lock says it all
    asked = [r.path for r in hub.requests if "/resolve/" in r.path]
    assert asked
    assert all(f"/resolve/{hub.first}/" in path for path in asked)


def test_a_first_download_that_was_interrupted_keeps_its_commit(hub, sources, output, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    hub.faults.cut_after = {SHARD: 1_000_000}
    with pytest.raises(UserError, match="run again to go on"):
        get_checkpoint(sources, output)
    entry = load_lock(lock_path(sources)).checkpoints["some-model"]
    assert entry.commit == hub.first
    assert not entry.files
    hub.commit(REPO, {**FILES, SHARD: b"newer"})
    get_checkpoint(sources, output)
    assert_complete(output)
    assert load_lock(lock_path(sources)).checkpoints["some-model"].commit == hub.first


def test_a_cut_connection_is_gone_on_from(hub, sources, output):
    hub.faults.cut_after = {SHARD: 1_000_000}
    get_checkpoint(sources, output)
    assert_complete(output)
    first, second = hub.gets(SHARD)
    assert "Range" not in first.headers
    assert second.headers["Range"].startswith("bytes=")
    assert second.status == 206
    assert first.sent + second.sent < 1.1 * len(FILES[SHARD])


def test_an_interrupted_run_is_gone_on_from(hub, sources, output, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    hub.faults.cut_after = {SHARD: 2_000_000}
    with pytest.raises(UserError):
        get_checkpoint(sources, output)
    assert not output.exists()
    get_checkpoint(sources, output)
    assert_complete(output)
    assert hub.gets(SHARD)[-1].status == 206
    assert sum(r.sent for r in hub.gets(SHARD)) < 1.1 * len(FILES[SHARD])
    # how far the other files were when the run ended is a matter of luck, but nothing is fetched twice
    assert sum(r.sent for r in hub.gets("tokenizer.json")) < 1.1 * len(FILES["tokenizer.json"])


def test_a_server_without_ranges_is_asked_from_the_start(hub, sources, output):
    hub.faults.cut_after, hub.faults.ignore_range = {SHARD: 1_000_000}, True
    get_checkpoint(sources, output)
    assert_complete(output)
    assert [r.status for r in hub.gets(SHARD)] == [200, 200]


def test_a_connection_that_is_always_cut_ends_in_one_line(hub, sources, output, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 3)
    hub.faults.cut_after, hub.faults.cut_always = {SHARD: 0}, True
    with pytest.raises(UserError) as error:
        get_checkpoint(sources, output)
    assert "gave up after 3 attempts" in str(error.value)
    assert "\n" not in str(error.value)
    assert not output.exists()


def test_damaged_bytes_of_an_earlier_run_are_replaced(hub, sources, output, monkeypatch):
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    hub.faults.cut_after = {SHARD: 1_000_000}
    with pytest.raises(UserError):
        get_checkpoint(sources, output)
    part = output.with_name("some-model.partial") / f"{SHARD}.part"
    part.write_bytes(b"\0" * part.stat().st_size)
    get_checkpoint(sources, output)
    assert_complete(output)


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_a_wrong_hash_is_refused(hub, sources, output, name):
    hub.faults.wrong_bytes = {name}
    with pytest.raises(UserError) as error:
        get_checkpoint(sources, output)
    assert str(error.value).startswith(f"{name}: ")
    assert "the hub's listing says" in str(error.value)
    assert "\n" not in str(error.value)
    assert not output.exists()
    assert not load_lock(lock_path(sources)).checkpoints["some-model"].files
    hub.faults.wrong_bytes = set()
    get_checkpoint(sources, output)
    assert_complete(output)


def test_content_that_is_not_what_the_lock_says(hub, sources, output, tmp_path):
    get_checkpoint(sources, output)
    hub.faults.wrong_bytes = {SHARD}
    found = sha256(bytes(byte ^ 1 for byte in FILES[SHARD]))
    with pytest.raises(UserError) as error:
        get_checkpoint(sources, tmp_path / "again")
    assert str(error.value) == (
        f"{SHARD}: SHA-256 is {found}, but {lock_path(sources)} says {sha256(FILES[SHARD])}; "
        f"delete the entry checkpoints.some-model of {lock_path(sources)} to accept the new revision"
    )
    assert not (tmp_path / "again").exists()


def test_another_revision_than_locked_is_refused_and_accepted_on_request(hub, sources, output, tmp_path):
    get_checkpoint(sources, output)
    new = hub.commit(REPO, {**FILES, "config.json": b'{"new": true}'}, branch="v2")
    edit(sources, "checkpoints", "some-model", revision="v2")
    with pytest.raises(UserError, match=r"holds checkpoints\.some-model to main, but .* asks for v2; delete the entry"):
        get_checkpoint(sources, tmp_path / "again")
    lock_path(sources).unlink()
    get_checkpoint(sources, tmp_path / "again")
    assert load_lock(lock_path(sources)).checkpoints["some-model"].commit == new


@pytest.mark.parametrize(("status", "path"), [(429, "/api/models"), (503, "/resolve/"), (503, "/cdn/")])
def test_a_busy_hub_is_waited_for(hub, sources, output, status, path):
    hub.faults.busy, hub.faults.busy_status, hub.faults.busy_path = 3, status, path
    get_checkpoint(sources, output)
    assert_complete(output)
    assert [r.status for r in hub.requests].count(status) == 3


def test_a_missing_repository_or_revision(hub, sources, output):
    edit(sources, "checkpoints", "some-model", revision="nope")
    with pytest.raises(UserError, match=f"{REPO} at nope: HTTP 404: {REPO} has no such revision"):
        get_checkpoint(sources, output)
    edit(sources, "checkpoints", "some-model", repo="someone/else")
    with pytest.raises(UserError, match=r"else at nope: HTTP 401: there is no someone/else, .* set HF_TOKEN"):
        get_checkpoint(sources, output)


def test_a_gated_repository_says_where_to_accept_its_terms(hub, sources, output):
    hub.faults.busy, hub.faults.busy_status, hub.faults.busy_code = 99, 403, "GatedRepo"
    for path in ("/api/models", "/resolve/"):
        hub.faults.busy_path = path
        with pytest.raises(UserError, match=rf"{REPO} is gated: accept its terms at {hub.url}/{REPO}, then log in"):
            get_checkpoint(sources, output)


def test_a_login_serves_for_a_download(hub, sources, output, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_of_a_login\n")
    get_checkpoint(sources, output)
    assert hub.requests[0].headers["Authorization"] == "Bearer hf_of_a_login"


def test_a_repository_without_safetensors(hub, sources, output):
    hub.commit(REPO, {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(UserError, match="not a checkpoint in safetensors format"):
        get_checkpoint(sources, output)


def test_a_full_disk_is_told_first(hub, sources, output, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(UserError, match=r"needs 0\.00 GiB in .*, 0\.00 GiB are free; make room"):
        get_checkpoint(sources, output)
    assert not hub.gets(SHARD)


def test_a_finished_checkpoint_is_checked_not_fetched(hub, sources, output):
    get_checkpoint(sources, output)
    hub.requests.clear()
    get_checkpoint(sources, output)
    assert_complete(output)
    assert not hub.requests


def test_rule_end_to_end_and_the_token_stays_out_of_logs(hub, sources, output, tmp_path):
    token = "hf_" + "secret" * 5
    hub.faults.cut_after = {SHARD: 1000}
    run = run_as_rule("download_checkpoint", "some-model", sources, output, tmp_path, token)
    assert run.returncode == 0, run.stderr
    assert_complete(output)
    by_path = {r.path.split("/")[1]: r.headers.get("Authorization") for r in hub.requests}
    assert by_path["api"] == by_path["someone"] == f"Bearer {token}"
    assert by_path["cdn"] is None  # another host
    log = (tmp_path / "rule.log").read_text()
    assert "trying again" in log
    assert "HTTP Request" not in log
    asked = {r.path for r in hub.requests if r.path.startswith("/api/")}
    assert all(path.startswith(f"/api/models/{REPO}/") for path in asked)
    hub.faults.wrong_bytes = {SHARD}
    failed = run_as_rule("download_checkpoint", "some-model", sources, tmp_path / "again", tmp_path, token)
    assert failed.returncode == 1
    lines = [line for line in failed.stderr.splitlines() if "ERROR" in line]
    assert len(lines) == 1
    assert "Traceback" not in failed.stderr
    for text in (run.stderr, failed.stderr, log, (tmp_path / "rule.log").read_text(), lock_path(sources).read_text()):
        assert "secret" not in text
        assert "not-for-logs" not in text
