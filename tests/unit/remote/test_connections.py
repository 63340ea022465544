"""Connections that fail, and runs that end before the file is there."""

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from prune_dual import MIB, Gguf, GgufError
from prune_dual.transport import chunks, http, journal
from prune_dual.transport import fetch as fetching
from prune_dual.transport.remote import open_remote
from remote_twin import NAME, OVERHEAD, fetch, pruned_locally, refused, selected_nbytes, sent
from small_run import ROOT


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
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    selected = selected_nbytes(twin, variant=1)
    start = Gguf.read(twin).data_start + 5 * MIB

    def refuse_the_next(request):
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        hub.faults.busy, hub.faults.busy_path = int(first > start), NAME

    hub.hook = refuse_the_next
    monkeypatch.setattr(fetching, "WORKERS", 1)  # else how far the others are is a matter of luck
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
        "import sys; from prune_dual import cli; from prune_dual.transport import chunks, fetch;"
        "chunks.CHUNK = 1 << 18; fetch.WORKERS = 2;"
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
    monkeypatch.setattr(journal, "SYNC_EVERY", MIB)
    monkeypatch.setattr(fetching, "WORKERS", 1)
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
    with open(folder / "journal", "a") as file:
        file.write("3 99")
    hub.requests.clear()
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert sent(hub) < selected_nbytes(twin, variant=1) - 2 * MIB


def test_another_selection_starts_over_but_keeps_the_head(hub, url, twin, out, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    hub.faults.lie, hub.faults.lie_from = "short", Gguf.read(twin).data_start + 3 * MIB
    refused(lambda: fetch(url, out, variant=0), url)
    hub.faults.lie = ""
    fetch(url, out, variant=1)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_two_runs_to_one_file_are_refused(hub, url, out):
    with open_remote(url, out):
        refused(lambda: fetch(url, out), str(out), "another run")


def test_servers_that_are_silent_are_not_waited_for_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.3)
    ready, silence = threading.Barrier(fetching.WORKERS), threading.Event()

    def bring(start, *_):
        ready.wait()
        if start == 0:
            raise GgufError("refused")
        silence.wait(30)

    journal = SimpleNamespace(done=[0] * 8)
    several = [chunks.Chunk(number, number, 1) for number in range(8)]
    before = time.monotonic()
    refused(fetching.Fetch(SimpleNamespace(fetch=bring), tmp_path, several, journal, None).run, "refused")
    assert time.monotonic() - before < 4 * fetching.PATIENCE_S
    silence.set()
