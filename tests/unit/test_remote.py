"""Fitting a twin that is somewhere else, against servers on 127.0.0.1 with their faults."""

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from gguf_files import IQ3_A770, IQ3_KEYS, Q4_K, Q8_0, Raw, expert, filled, published_twin, small_twin, twin_keys, write
from hub_server import HubServer
from phase_twin.single_file import single_file
from prune_dual import MIB, FileHash, Gguf, GgufError, Manifest, Twin, cli, hash_gguf, prune, remote, select, transport
from prune_dual import writing as writing_module
from prune_dual.manifest import TensorHash
from prune_dual.remote import open_remote
from prune_dual.table import Curve
from prune_dual.transport import Remote, is_remote, shown

ROOT = Path(__file__).parents[2]
REPO = "someone/some-twin"
NAME = "twin.gguf"
# what a request for a block of the head may bring beyond it
OVERHEAD = 300_000


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(remote, "CHUNK", MIB // 4)
    for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", "/nonexistent")  # no token of whoever runs this
        yield server


@pytest.fixture
def twin(tmp_path):
    """The same twin as a local file: 4 groups, a promotion is 1.6 MiB."""
    (tmp_path / "here").mkdir()
    return small_twin(tmp_path / "here" / NAME)


@pytest.fixture
def url(hub, twin):
    """Where the twin is served, as a plain file, with a manifest beside it."""
    hub.files[f"files/{NAME}"] = twin.read_bytes()
    hub.files["files/manifest.json"] = manifest_of(twin).encode()
    return f"{hub.url}/files/{NAME}"


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "fitted.gguf"


def manifest_of(path: Path) -> str:
    twin = Twin.read(path)
    digest, hashes = hash_gguf(twin.gguf)
    return Manifest.of(twin, [FileHash(path.name, path.stat().st_size, digest)], hashes).json()


def fetch(url: str, out: Path, *, manifest: str | None = None, dual: Path | None = None, **request) -> None:
    """Fetch a selection as the command line would."""
    with open_remote(url, out) as source:
        found = source.neighbour("manifest.json", 1 << 20) if manifest is None else manifest.encode()
        parsed = None if not found else Manifest.parse(found, "manifest.json")
        source.write(select(source.twin, **(request or {"variant": 1})), out, manifest=parsed)


def pruned_locally(twin: Path, folder: Path, **request) -> bytes:
    view = Twin.read(twin)
    prune(view, select(view, **request), folder / "local.gguf")
    return (folder / "local.gguf").read_bytes()


def selected_nbytes(twin: Path, **request) -> int:
    return select(Twin.read(twin), **request).selected_bytes


def sent(hub, name: str = NAME) -> int:
    return sum(request.sent for request in hub.gets(name))


def refused(call, *words: str) -> str:
    """The one line with which `call` ends; it must contain `words`."""
    with pytest.raises(GgufError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# ---------------------------------------------------------------- what is fetched


@pytest.mark.parametrize("request_", [{"variant": 0}, {"variant": 1}, {"promote": "1,3"}], ids=str)
def test_the_file_is_that_of_a_local_prune_and_only_winners_are_fetched(hub, url, twin, out, tmp_path, request_):
    fetch(url, out, **request_)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, **request_)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    head, selected = Gguf.read(twin).data_start, selected_nbytes(twin, **request_)
    assert selected < sent(hub) <= head + selected + OVERHEAD < twin.stat().st_size
    ranges = Counter(request.headers["Range"] for request in hub.gets(NAME))
    assert max(ranges.values()) == 1


def test_padding_of_the_twin_does_not_come_along(hub, out, tmp_path):
    group = expert(0, "gate")
    tensors = [filled(name, (3,), 0) for name in ("a", "b")]
    tensors += [filled(group, (256, 4), Q4_K), filled(f"{group}.v1", (256, 4), Q8_0)]
    twin = write(tmp_path / NAME, twin_keys([group]), tensors)
    data, view = bytearray(twin.read_bytes()), Gguf.read(twin)
    first = view.tensors[0].data
    data[first.offset + first.nbytes] = 7  # what no writer of ours leaves there
    twin.write_bytes(data)
    hub.files[NAME] = bytes(data)
    fetch(f"{hub.url}/{NAME}", out, variant=0)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=0)


def test_chunks_join_neighbours_and_are_cut():
    tensor = [filled(f"t{n}", (3,), 0) for n in range(3)]
    placed = [
        (SimpleNamespace(data=SimpleNamespace(offset=at), nbytes=t.nbytes), to)
        for t, at, to in zip(tensor, (1000, 1032, 5000), (64, 96, 128), strict=True)
    ]
    assert remote.plan_chunks(placed, 32) == [remote.Chunk(1000, 64, 44), remote.Chunk(5000, 128, 12)]


def test_a_head_larger_than_a_block(hub, out, tmp_path):
    words = [f"word {n}" for n in range(40_000)]
    small_twin(tmp_path / NAME, extra=[("tokenizer.ggml.tokens", "[str]", words), ("x.numbers", "[u32]", range(9999))])
    hub.files[NAME] = (tmp_path / NAME).read_bytes()
    fetch(f"{hub.url}/{NAME}", out, variant=0)
    assert Gguf.read(out).get("tokenizer.ggml.tokens", "[str]") == words
    assert out.read_bytes() == pruned_locally(tmp_path / NAME, tmp_path, variant=0)
    assert sent(hub) <= Gguf.read(tmp_path / NAME).data_start + selected_nbytes(tmp_path / NAME) + 2 * MIB


def test_memory_does_not_grow_with_the_file(hub, out, tmp_path):
    group = expert(0, "gate")
    tensors = [Raw(group, (2048, 512, 256), IQ3_A770), Raw(f"{group}.v1", (2048, 512, 256), Q4_K)]
    hub.files[NAME] = write(tmp_path / NAME, twin_keys([group]) + IQ3_KEYS, tensors).read_bytes()
    (tmp_path / NAME).unlink()
    code = """
import re, sys
from pathlib import Path
from prune_dual.cli import main
assert main(["--dual", sys.argv[1], "--out", sys.argv[2], "--variant", "1"]) == 0
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    command = [sys.executable, "-c", code, f"{hub.url}/{NAME}", str(out)]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 150_000_000
    out.unlink()
    peak = int(done.stdout.split()[-1]) // 1024
    print(f"peak memory of a fetch of 150 MB: {peak} MB")
    assert peak < 150


# ---------------------------------------------------------------- connections that fail


def test_cut_connections_are_gone_on_from(hub, url, twin, out, tmp_path):
    hub.faults.cut_after, hub.faults.cut_always = {NAME: 150_000}, True
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert sent(hub) <= 1.9 * selected_nbytes(twin, variant=1)  # what was read when the cut came may be lost


def test_a_connection_that_brings_nothing_ends_in_one_line(hub, url, out):
    fetch(url, out, variant=0)
    out.unlink()
    hub.faults.cut_after, hub.faults.cut_always = {NAME: 0}, True
    refused(lambda: fetch(url, out), url, "gave up after 6 attempts", "run again")
    assert not list(out.parent.iterdir())


def test_a_busy_server_is_waited_for(hub, url, twin, out, tmp_path, caplog):
    hub.faults.busy, hub.faults.busy_status = 3, 503
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert "HTTP 503; trying again" in caplog.text


def test_no_network(hub, out):
    message = refused(lambda: fetch("http://127.0.0.1:1/twin.gguf?key=hidden", out), "http://127.0.0.1:1/twin.gguf")
    assert "Connection refused" in message
    assert "hidden" not in message
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("known", [True, False], ids=["ETag", "no ETag, no manifest"])
def test_an_interrupted_run_is_gone_on_from(hub, url, twin, out, tmp_path, monkeypatch, known):
    if not known:
        hub.faults.no_etag = True
        del hub.files["files/manifest.json"]
    monkeypatch.setattr(transport, "ATTEMPTS", 1)
    selected = selected_nbytes(twin, variant=1)
    start = Gguf.read(twin).data_start + 5 * MIB

    def refuse_the_next(request):
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        hub.faults.busy, hub.faults.busy_path = int(first > start), NAME

    hub.hook = refuse_the_next
    monkeypatch.setattr(remote, "WORKERS", 1)  # else how far the others are is a matter of luck
    refused(lambda: fetch(url, out), url, "HTTP 503", "what was fetched so far is kept")
    assert not out.exists()
    before = sent(hub)
    assert 1 * MIB < before < selected
    hub.hook, hub.faults.busy = lambda request: None, 0
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if known:
        assert sent(hub) <= selected + Gguf.read(twin).data_start + OVERHEAD
    else:  # nothing would tell that the rest is of the same file
        assert sent(hub) > selected + 1 * MIB


def test_ctrl_c_keeps_what_was_fetched_and_says_so(hub, url, twin, out, tmp_path):
    hub.hook = lambda request: time.sleep(0.1 if request.path.endswith(NAME) else 0)
    code = (
        "import sys; from prune_dual import cli, remote; remote.CHUNK = 1 << 18; remote.WORKERS = 2;"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--dual", url, "--out", str(out), "--variant", "1"]

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background of a shell is deaf to it

    process = subprocess.Popen(command, cwd=ROOT / "scripts", stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    while sent(hub) < 3 * MIB and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    folder = out.with_name(f".{out.name}.fetch")
    assert f"interrupted, what was fetched is kept in {folder}; run the same again to go on" in stderr
    assert not out.exists()
    hub.hook = lambda request: None
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert sent(hub) <= selected_nbytes(twin, variant=1) + 4 * OVERHEAD  # two requests were under way


def test_a_killed_run_is_gone_on_from(hub, url, twin, out, tmp_path, monkeypatch):
    """The journal may lag behind the data, and end in half a line."""
    monkeypatch.setattr(remote, "SYNC_EVERY", MIB)
    monkeypatch.setattr(remote, "WORKERS", 1)
    folder = out.with_name(f".{out.name}.fetch")
    kept = tmp_path / "kept"

    def copy_state(request):
        # what a kill at this moment would leave
        if not kept.exists() and (folder / "journal").exists() and sent(hub) > 4 * MIB:
            subprocess.run(["cp", "-r", folder, kept], check=True)

    hub.hook = copy_state
    fetch(url, out)
    hub.hook = lambda request: None
    out.unlink()
    kept.rename(folder)
    with open(folder / "journal", "a") as journal:
        journal.write("3 99")
    hub.requests.clear()
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert sent(hub) < selected_nbytes(twin, variant=1) - 2 * MIB


def test_another_selection_starts_over_but_keeps_the_head(hub, url, twin, out, tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "ATTEMPTS", 1)
    hub.faults.lie, hub.faults.lie_from = "short", Gguf.read(twin).data_start + 3 * MIB
    refused(lambda: fetch(url, out, variant=0), url)
    hub.faults.lie = ""
    fetch(url, out, variant=1)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_two_runs_to_one_file_are_refused(hub, url, out):
    with open_remote(url, out):
        refused(lambda: fetch(url, out), str(out), "another run")


# ---------------------------------------------------------------- servers that refuse or lie


def test_a_server_without_ranges(hub, url, out):
    hub.faults.ignore_range = True
    refused(lambda: fetch(url, out), url, "ignores Range", "download the whole twin")
    assert not list(out.parent.iterdir())


LIES = {
    "range": "answers with",
    "no range": "Content-Range ''",
    "no total": "instead of a range and a size",
    "total": "the file changed while it was fetched (it had",
    "short": "announces",
    "long": "announces",
    "chunked and long": "more bytes than it was asked for",
    "compressed": "compresses ranges",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
def test_lies_about_sizes(hub, url, twin, out, lie, later):
    hub.faults.lie = lie
    hub.faults.lie_from = Gguf.read(twin).data_start + MIB if later else 0
    if (lie, later) == ("total", False):
        fetch(url, out)  # contradicts nothing: the last byte of the file is padding that nobody asks for
        return
    refused(lambda: fetch(url, out), url, LIES[lie])
    assert not out.exists()


def test_a_size_that_is_too_small_from_the_start(hub, url, twin, out):
    hub.files[f"files/{NAME}"] = twin.read_bytes()[:-1000]
    refused(lambda: fetch(url, out), url, "past the end of the file")
    assert not list(out.parent.iterdir())


def test_bodies_without_a_length_are_fine(hub, url, twin, out, tmp_path):
    hub.faults.lie = "chunked"
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


@pytest.mark.parametrize("size", ["same size", "longer", "shorter"])
def test_a_file_that_changes_meanwhile_is_refused_and_then_fetched_anew(hub, url, twin, out, tmp_path, size):
    other = small_twin(twin.with_name("other.gguf"), groups={"same size": 4, "longer": 5, "shorter": 1}[size])
    content = bytearray(other.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)

    def change(request):
        if sent(hub) > 2 * MIB:
            hub.files[f"files/{NAME}"] = bytes(content)
            hub.files["files/manifest.json"] = manifest_of(other).encode()

    hub.hook = change
    refused(lambda: fetch(url, out), url, "the file changed while it was fetched", "run again to start over")
    assert not out.exists()
    hub.hook = lambda request: None
    fetch(url, out)
    other.rename(twin)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "check the address"), (401, "login"), (403, "login"), (400, "HTTP 400"), (500, "gave up after")],
)
def test_refusals(hub, url, out, status, words):
    hub.faults.busy, hub.faults.busy_status = 99, status
    refused(lambda: fetch(url, out), url, f"HTTP {status}", words)
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("content", [b"", b"GG", b"<html>not here</html>" * 99])
def test_what_is_no_twin(hub, out, content):
    hub.files[NAME] = content
    message = refused(lambda: fetch(f"{hub.url}/{NAME}", out), f"{hub.url}/{NAME}")
    assert any(word in message for word in ("empty", "past the end", "not a GGUF"))
    assert not list(out.parent.iterdir())


def test_an_endless_head_is_refused(hub, url, out, monkeypatch):
    monkeypatch.setattr(remote, "MAX_HEAD", 100)
    refused(lambda: fetch(url, out), url, "its head is larger")


def test_a_disk_that_is_too_small(hub, url, out, monkeypatch):
    monkeypatch.setattr(writing_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    refused(lambda: fetch(url, out), str(out), "needs", "1.00 MiB free")
    assert sent(hub) < OVERHEAD


def test_an_output_that_exists(hub, url, out):
    out.write_text("mine")
    refused(lambda: fetch(url, out), str(out), "--force replaces it")
    refused(lambda: fetch(url, out.parent / "no" / "x.gguf"), "does not exist")
    assert out.read_text() == "mine"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("address", ["http://", "http://[::bad/x", "https://host:port/x", "http:///x", "http://a b/x"])
def test_odd_addresses(hub, out, address):
    refused(lambda: fetch(address, out))


# ---------------------------------------------------------------- the manifest


def test_damaged_bytes_are_fetched_once_more(hub, url, twin, out, tmp_path, caplog):
    at = Twin.read(twin).groups[expert(2, "gate")][1].data.offset + 1000
    hub.faults.flip = {at}
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert "is not what the manifest says (1 such): fetching again" in caplog.text
    tensor = Twin.read(twin).groups[expert(2, "gate")][1].nbytes
    assert sent(hub) <= selected_nbytes(twin, variant=1) + tensor + 2 * (MIB // 4) + OVERHEAD


def test_bytes_that_stay_wrong_name_the_tensor(hub, url, twin, out, tmp_path):
    good = twin.read_bytes()
    at = Twin.read(twin).groups[expert(2, "gate")][1].data.offset + 1000
    hub.files[f"files/{NAME}"] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    refused(lambda: fetch(url, out), url, f"{expert(2, 'gate')}.v1", "SHA-256", "the manifest says")
    assert not out.exists()
    hub.files[f"files/{NAME}"] = good
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def edited(twin: Path, edit) -> str:
    data = json.loads(manifest_of(twin))
    edit(data)
    return json.dumps(data)


BAD_MANIFESTS = {
    "no JSON": (lambda twin: "{", "not a readable manifest"),
    "a list": (lambda twin: "[]", "format"),
    "another format": (lambda twin: '{"format": "else"}', "format"),
    "nested": (lambda twin: "[" * 100_000, "not a readable manifest"),
    "version 2": (lambda twin: edited(twin, lambda data: data.update(version=2)), "its version is 2"),
    "no twin": (lambda twin: edited(twin, lambda data: data.pop("twin")), "'twin' is missing"),
    "no hash": (lambda twin: edited(twin, lambda data: data["twin"]["tensors"][1].pop("sha256")), "'sha256' is miss"),
    "half a hash": (
        lambda twin: edited(twin, lambda data: data["twin"]["tensors"][1].update(sha256="ab")),
        "no SHA-256 in hex",
    ),
    "an offset in words": (
        lambda twin: edited(twin, lambda data: data["twin"]["tensors"][1].update(offset="ab")),
        "'offset' is missing or no int",
    ),
    "another twin": (
        lambda twin: edited(twin, lambda data: data["twin"]["tensors"][1].update(nbytes=5)),
        f"{expert(0, 'gate')}' is not there as the twin has it",
    ),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_unusable_manifests(hub, url, twin, out, case):
    build, words = BAD_MANIFESTS[case]
    refused(lambda: fetch(url, out, manifest=build(twin), variant=0), "manifest.json", words)
    assert not list(out.parent.iterdir())


def test_a_manifest_says_all_and_can_be_read_back(twin):
    view = Twin.read(twin)
    found = Manifest.parse(manifest_of(twin).encode(), "here")
    data = twin.read_bytes()
    assert found.files == [FileHash(NAME, len(data), hashlib.sha256(data).hexdigest())]
    assert found.twin == NAME
    ranks = {expert(n, "gate"): n for n in range(4)}
    for entry, tensor in zip(found.tensors, view.gguf.tensors, strict=True):
        group = tensor.name.removesuffix(".v1")
        digest = hashlib.sha256(tensor.data.read()).hexdigest()
        facts = [tensor.name, tensor.type_name, list(tensor.shape), tensor.data.offset, tensor.nbytes, digest]
        assert entry == TensorHash(*facts, int(tensor.name != group), ranks.get(group))


# ---------------------------------------------------------------- hosts and credentials


def test_the_hub_by_name_with_a_redirect_and_a_token(hub, twin, out, tmp_path, monkeypatch, caplog):
    token = "hf_" + "secret" * 5
    monkeypatch.setenv("HF_TOKEN", token)
    files = {NAME: twin.read_bytes(), "manifest.json": manifest_of(twin).encode()}
    first = hub.commit(REPO, files)

    def move_the_branch(request):
        if request.path.startswith("/cdn/") and len(hub.repos[REPO]) == 1:
            hub.commit(REPO, {NAME: b"something else"})

    hub.hook = move_the_branch
    fetch(f"hf://{REPO}/{NAME}@main", out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    by_host = {"cdn": set(), "someone": set()}
    for request in hub.requests:
        by_host[request.path.split("/")[1]].add(request.headers.get("Authorization"))
    assert by_host == {"cdn": {None}, "someone": {f"Bearer {token}"}}
    resolved = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert "/resolve/main/" in resolved[0]
    assert all(f"/resolve/{first}/" in path for path in resolved[1:])
    assert "secret" not in caplog.text
    assert "not-for-logs" not in caplog.text


def test_a_password_in_the_address_stays_with_its_host(hub, twin, out, monkeypatch):
    hub.commit(REPO, {NAME: twin.read_bytes()})
    fetch(hub.url.replace("http://", "http://user:pass@") + f"/{REPO}/resolve/main/{NAME}", out)
    seen = {(request.path.split("/")[1], "Authorization" in request.headers) for request in hub.requests}
    assert seen == {("someone", True), ("cdn", False)}


def test_the_hub_is_not_asked_when_offline(hub, out, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(lambda: fetch(f"hf://{REPO}/{NAME}", out), "HF_HUB_OFFLINE is set")
    assert not hub.requests


def test_nothing_secret_is_written_down(hub, twin, out, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "secret" * 5)
    monkeypatch.setattr(transport, "ATTEMPTS", 2)
    hub.commit(REPO, {NAME: twin.read_bytes()})
    hub.files[NAME] = twin.read_bytes()
    plain = hub.url.replace("http://", "http://user:secret@") + f"/{NAME}?signature=secret"
    for url in (f"hf://{REPO}/{NAME}", plain):
        hub.faults.cut_after, hub.faults.cut_always = {}, True
        hub.hook = lambda request: hub.faults.cut_after.update({NAME: 0} if sent(hub) > 2 * MIB else {})
        hub.requests.clear()
        message = refused(lambda url=url: fetch(url, out), NAME, "gave up after 2 attempts")
        folder = out.with_name(f".{out.name}.fetch")
        assert folder.exists()
        for text in (message, *(path.read_bytes().decode("latin-1") for path in folder.iterdir())):
            assert "secret" not in text
            assert "not-for-logs" not in text
    assert hub.requests[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"hf://{REPO}", "not of the form hf://"),
        (f"hf://{REPO}/{NAME}@", "not of the form hf://"),
        (f"hf://{REPO}/none.gguf", "HTTP 404"),
        (f"hf://{REPO}/{NAME}@nope", "HTTP 404"),
        (f"hf://someone/else/{NAME}", "HTTP 404"),
    ],
)
def test_the_hub_has_no_such_thing(hub, twin, out, address, words):
    hub.commit(REPO, {NAME: twin.read_bytes()})
    refused(lambda: fetch(address, out), words)


def test_https_does_not_become_http(hub, url, monkeypatch):
    """As if a server behind TLS had redirected to plain HTTP."""
    there = Remote(url.replace("http:", "https:"))
    hop = SimpleNamespace(url=url)
    for history, end in (([], url), ([hop], there.url)):  # at the end, or only on the way
        answer = SimpleNamespace(url=end, history=history, status_code=206, close=lambda: None)
        monkeypatch.setattr(there.requests.Session, "get", lambda *_, answer=answer, **__: answer)
        refused(lambda: there.first(10), "which is not https: refused")


def test_a_secure_connection_that_breaks_is_tried_again_but_not_a_wrong_certificate(hub, url, twin, out, monkeypatch):
    there = Remote(url)
    get, faults = there.requests.Session.get, [ssl.SSLEOFError(8, "EOF occurred in violation of protocol")]

    def broken(*arguments, **options):
        if faults:
            raise there.requests.exceptions.SSLError(faults.pop())
        return get(*arguments, **options)

    monkeypatch.setattr(there.requests.Session, "get", broken)
    assert there.first(4) == b"GGUF"
    faults.append(ssl.SSLCertVerificationError(1, "certificate verify failed"))
    refused(lambda: there.first(4), "no secure connection: certificate verify failed")
    assert not faults


def test_the_scheme_may_be_in_capitals(hub, url):
    assert is_remote("HTTP://host/x.gguf")
    assert is_remote("HF://someone/repo/x.gguf")
    assert Remote(url.replace("http", "HTTP")).first(4) == b"GGUF"


def test_an_answer_without_a_tag_is_no_change(hub, url, twin, out, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK", MIB)

    def toggle(_request):
        hub.faults.no_etag = not hub.faults.no_etag

    hub.hook = toggle
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_signed_link_gives_nothing_beside_the_twin(hub, url, twin, out, tmp_path, capfd, status):
    """It is good for one file; without the signature the server does not even say what there is."""
    hub.faults.busy, hub.faults.busy_status, hub.faults.busy_path = 99, status, ".json"
    arguments = ["--dual", f"{url}?signature=secret", "--variant", "1"]
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert "secret" not in "".join(capfd.readouterr())


def test_servers_that_are_silent_are_not_waited_for_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.3)
    ready, silence = threading.Barrier(remote.WORKERS), threading.Event()

    def bring(start, *_):
        ready.wait()
        if start == 0:
            raise GgufError("refused")
        silence.wait(30)

    journal = SimpleNamespace(done=[0] * 8)
    chunks = [remote.Chunk(number, number, 1) for number in range(8)]
    before = time.monotonic()
    refused(remote._Fetch(SimpleNamespace(fetch=bring), tmp_path, chunks, journal, None).run, "refused")
    assert time.monotonic() - before < 4 * remote.PATIENCE_S
    silence.set()


def test_addresses_are_shown_without_secrets():
    assert shown("https://me:pass@host:8443/a/twin.gguf?sig=1#x") == "https://host:8443/a/twin.gguf"
    assert shown("https://host/a/twin.gguf").name == "twin.gguf"


# ---------------------------------------------------------------- the command line


def run(capfd, *arguments: object) -> SimpleNamespace:
    code = cli.main([str(argument) for argument in arguments])
    stdout, stderr = capfd.readouterr()
    return SimpleNamespace(code=code, stdout=stdout, stderr=stderr)


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


def test_verify_of_a_local_prune(twin, out, capfd, monkeypatch, caplog):
    (twin.parent / "manifest.json").write_text(manifest_of(twin))
    assert run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify").code == 0
    assert not caplog.text
    out.unlink()
    (twin.parent / "manifest.json").write_text(
        edited(twin, lambda data: data["twin"]["tensors"][0].update(sha256="ab" * 32))
    )
    done = run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify")
    assert done.code == 1
    assert "'token_embd.weight': SHA-256 is" in done.stderr
    (twin.parent / "manifest.json").unlink()
    assert run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify").code == 0
    assert "compared with the twin only" in caplog.text
    out.unlink()

    def damage(source: int, target: int, offset: int, nbytes: int) -> int:
        return os.write(target, bytes(byte ^ 1 for byte in os.pread(source, nbytes, offset)))

    monkeypatch.setattr(writing_module, "KERNEL_COPIES", [damage])
    done = run(capfd, "--dual", twin, "--out", out, "--variant", "1", "--verify")
    assert done.code == 1
    assert "tensor 'token_embd.weight' does not have the bytes it has in" in done.stderr
    assert not list(out.parent.iterdir())


def test_sendfile_is_the_second_choice(twin, out, tmp_path, monkeypatch):
    expected = pruned_locally(twin, tmp_path, variant=1)
    calls = Counter()

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    def counted(*arguments):
        calls["sendfile"] += 1
        return writing_module._sendfile(*arguments)

    view = Twin.read(twin)
    for copies in ([refuse, counted], [refuse, refuse], []):
        monkeypatch.setattr(writing_module, "KERNEL_COPIES", copies)
        prune(view, select(view, variant=1), out, force=True)
        assert out.read_bytes() == expected
    assert calls["sendfile"] >= 5


def test_a_look_reads_the_head_only(hub, url, twin, out, capfd):
    points = [{"bytes": 0, "kld_predicted": 0.1}, {"bytes": 100 * MIB, "kld_predicted": 0.2, "more": 1}]
    hub.files["files/curve.json"] = json.dumps({"points": points}).encode()
    done = run(capfd, "--dual", url, "--out", out, "--variant", "1", "--dry-run")
    assert done.code == 0, done.stderr
    assert sent(hub) <= Gguf.read(twin).data_start + OVERHEAD
    assert not list(out.parent.iterdir())
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    table = [[cell.strip() for cell in line if cell] for line in lines if len(line) > 3]
    size = selected_nbytes(twin, variant=1) / MIB
    assert table[0] == [
        "card", "room for weights", "promoted", "weights", "of the promotion", "to fetch", "predicted KLD",
    ]  # fmt: skip
    assert [row[0] for row in table[1:]] == ["8 GiB", "as asked"]  # the first card takes all of this twin
    assert table[1][1:5] == ["7680 MiB", "4 of 4", f"{size:.2f} MiB", "100 %"]
    assert float(table[1][5].split()[0]) == pytest.approx(size, abs=0.05)
    assert float(table[1][6]) == pytest.approx(0.1 + 0.1 * size / 100, abs=1e-4)


def test_a_look_at_a_large_twin(tmp_path, capfd):
    done = run(capfd, "--dual", published_twin(tmp_path / "big.gguf"), "--dry-run", "--budget-mb", "15400")
    rows = [line.split() for line in done.stdout.splitlines() if " GiB " in line and line.endswith("%")]
    assert [row[:2] for row in rows[:-1]] == [["16", "GiB"], ["20", "GiB"]]
    shares = [int(row[row.index("%") - 1]) for row in rows[:-1]]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert "to fetch" not in done.stdout


def test_an_unreadable_curve_is_left_out(hub, url, capfd, caplog):
    hub.files["files/curve.json"] = b'{"points": [{"bytes": 1}]}'
    done = run(capfd, "--dual", url, "--variant", "1", "--dry-run")
    assert done.code == 0
    assert "KLD" not in done.stdout
    assert "not a readable curve" in caplog.text


def test_curve():
    curve = Curve.parse(b'{"points": [{"bytes": 20, "kld_predicted": 1}, {"bytes": 10, "kld_predicted": 2}]}')
    assert [curve.at(nbytes) for nbytes in (9, 10, 12.5, 20, 21)] == [None, 2, 1.75, 1, None]
    with pytest.raises(ValueError, match="no points"):
        Curve.parse(b'{"points": []}')


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
