"""Servers that refuse or lie, and what else stands in the way of a fetch."""

from types import SimpleNamespace

import pytest

from gguf_files import small_twin
from prune_dual import MIB, Gguf, files
from prune_dual.transport import chunks, head
from remote_twin import NAME, OVERHEAD, fetch, manifest_of, pruned_locally, refused, sent


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
    monkeypatch.setattr(head, "MAX_HEAD", 100)
    refused(lambda: fetch(url, out), url, "its head is larger")


def test_a_disk_that_is_too_small(hub, url, out, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
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


def test_an_answer_without_a_tag_is_no_change(hub, url, twin, out, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", MIB)

    def toggle(_request):
        hub.faults.no_etag = not hub.faults.no_etag

    hub.hook = toggle
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
