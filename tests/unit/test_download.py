"""Downloads against a hub on 127.0.0.1, with its faults."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import download_checkpoint
import download_text
from hub_server import HubServer
from phase_twin import fetch
from phase_twin.errors import UserError
from phase_twin.sources import load_sources
from phase_twin.sources_lock import LockedText, load_lock, lock_text

ROOT = Path(__file__).parents[2]
REPO = "someone/some-model"
SHARD = "model-00001-of-00002.safetensors"
FILES = {
    "config.json": b'{"model_type": "qwen3_5_moe"}',
    "tokenizer.json": bytes(range(256)) * 3000,
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    SHARD: os.urandom(3_000_000),
    "model-00002-of-00002.safetensors": os.urandom(500_000),
    "pytorch_model.bin": b"not wanted",
    "model.onnx": b"not wanted",
    "README.md": b"not wanted",
}
WANTED = {name for name in FILES if not name.endswith((".bin", ".onnx", ".md"))}
TEXT = "\n".join(f"line {n} of the text" for n in range(20_000)).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 0.01)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.first = server.commit(REPO, FILES)
        server.files["texts/plain.txt"] = TEXT
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("folder/inner.txt", TEXT)
        server.files["texts/archive.zip"] = archive.getvalue()
        yield server


@pytest.fixture
def sources(tmp_path, hub):
    """A sources.yaml that points at the hub."""
    data = yaml.safe_load((ROOT / "config/sources.yaml").read_text())
    data["checkpoints"] = {"some-model": {"repo": REPO, "revision": "main", "license": "Apache-2.0"}}
    data["texts"] = {
        "open": {"url": f"{hub.url}/texts/plain.txt", "license": "none"},
        "pinned": {
            "url": f"{hub.url}/texts/plain.txt",
            "bytes": len(TEXT),
            "sha256": sha256(TEXT),
            "license": "none",
        },
        "member": {
            "url": f"{hub.url}/texts/archive.zip",
            "member": "folder/inner.txt",
            "bytes": len(TEXT),
            "sha256": sha256(TEXT),
            "license": "none",
        },
    }
    path = tmp_path / "config" / "sources.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "resources" / "checkpoints" / "some-model"


def edit(sources: Path, section: str, name: str, **values) -> None:
    data = yaml.safe_load(sources.read_text())
    data[section][name].update(values)
    sources.write_text(yaml.safe_dump(data))


def lock_path(sources: Path) -> Path:
    return sources.with_name("sources.lock.yaml")


def get_checkpoint(sources: Path, output: Path) -> None:
    download_checkpoint.download_checkpoint(str(sources), str(lock_path(sources)), "some-model", output)


def get_text(sources: Path, name: str, output: Path) -> None:
    download_text.download_text(str(sources), str(lock_path(sources)), name, output)


def assert_complete(output: Path) -> None:
    assert {path.name for path in output.iterdir()} == WANTED
    assert all((output / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any(path.is_symlink() for path in output.iterdir())
    assert not output.with_name("some-model.partial").exists()


# ---------------------------------------------------------------- sources.yaml


def test_the_projects_sources_are_valid():
    sources = load_sources(ROOT / "config/sources.yaml")
    assert sources.engine.commit.startswith("0c1e57098")
    assert sources.checkpoints["nex-n2-mini"].repo == "nex-agi/Nex-N2-mini"
    assert sources.texts["wikitext2_test"].bytes == 1290590


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sha256": "abc"}, "texts.pinned.sha256: 'abc': "),
        ({"colour": "red"}, "texts.pinned.colour: unknown key"),
        ({"url": "http://example.org/x"}, "texts.pinned.url: 'http://example.org/x': "),
        ({"license": None}, "texts.pinned.license: None: "),
    ],
)
def test_bad_sources_are_told_in_one_line(sources, values, expected):
    edit(sources, "texts", "pinned", **values)
    with pytest.raises(UserError) as error:
        load_sources(sources)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_source_names_the_known_ones(sources, tmp_path):
    with pytest.raises(UserError, match=r"texts has no entry 'opne'; it has: member, open, pinned"):
        get_text(sources, "opne", tmp_path / "x.txt")


def test_two_writers_lose_no_entry(sources):
    script = (
        "import sys; from phase_twin.sources_lock import LockedText, lock_text\n"
        "for n in range(10):\n"
        "    lock_text(sys.argv[1], f'{sys.argv[2]}{n}', LockedText(url='u', bytes=n, sha256='0' * 64))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(lock_path(sources)), name], env=env) for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert set(load_lock(lock_path(sources)).texts) == {f"{name}{n}" for name in "abc" for n in range(10)}
    first = lock_path(sources).read_bytes()
    lock_text(lock_path(sources), "a0", LockedText(url="other", bytes=7, sha256="1" * 64))
    assert lock_path(sources).read_bytes() == first  # who was first holds


# ---------------------------------------------------------------- checkpoint


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
    run = rule("download_checkpoint", "some-model", sources, output, tmp_path, token)
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
    failed = rule("download_checkpoint", "some-model", sources, tmp_path / "again", tmp_path, token)
    assert failed.returncode == 1
    lines = [line for line in failed.stderr.splitlines() if "ERROR" in line]
    assert len(lines) == 1
    assert "Traceback" not in failed.stderr
    for text in (run.stderr, failed.stderr, log, (tmp_path / "rule.log").read_text(), lock_path(sources).read_text()):
        assert "secret" not in text
        assert "not-for-logs" not in text


def rule(script: str, name: str, sources: Path, output: Path, tmp_path: Path, token: str = ""):
    """Run a rule script as Snakemake would, in a process of its own."""
    code = f"""
from types import SimpleNamespace
import {script}
from phase_twin.rule import run_rule
class Params(SimpleNamespace):
    get = dict().get
run_rule({script}.main, SimpleNamespace(
    rule={script!r}, log=[{str(tmp_path / "rule.log")!r}], threads=2, input=[], output=[{str(output)!r}],
    wildcards=SimpleNamespace(name={name!r}),
    params=Params(sources={str(sources)!r}, lock={str(lock_path(sources))!r})))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if token:
        env["HF_TOKEN"] = token
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("name", ["open", "pinned", "member"])
def test_text(hub, sources, tmp_path, name):
    output = tmp_path / "resources" / "texts" / "text.txt"
    run = rule("download_text", name, sources, output, tmp_path)
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
