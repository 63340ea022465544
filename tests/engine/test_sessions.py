"""Saved states: taken up by the engine that wrote them, refused where they are of the base before."""

import re
import struct
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llama_server import Server

pytestmark = [pytest.mark.engine, pytest.mark.nano]

PROMPT = "The river is as long as the road that"
# magic of a file -> the version that llama.cpp b9550 wrote; an old file differs in more, but is read no further
OLD = {b"nsgg": 9, b"qsgg": 2}


@pytest.fixture(scope="module")
def model(nano) -> Path:
    return nano / "Nex-N2-nano-9mib.gguf"


def aged(path: Path) -> Path:
    """A copy that says it is of the base before."""
    data = bytearray(path.read_bytes())
    version = OLD[bytes(data[:4])]
    assert struct.unpack_from("<I", data, 4)[0] > version
    struct.pack_into("<I", data, 4, version)
    old = path.with_name(f"old-{path.name}")
    old.write_bytes(data)
    return old


def test_a_session_of_the_old_base_is_refused(run, model, tmp_path):
    path = tmp_path / "session"

    def complete(session: Path, code: int = 0) -> str:
        flags = ("-c", 256, "-n", 4, "--temp", 0, "-no-cnv", "-p", PROMPT, "--prompt-cache", session)
        return run("llama-completion", "-m", model, *flags, code=code).stdout

    assert "will create" in complete(path)
    assert re.search(r"loaded a session with prompt size of \d\d tokens", complete(path))
    said = complete(aged(path), code=1)
    assert "session file has version 9, but this build reads version 10: it was saved by another version" in said
    assert f"failed to load session file '{path.parent}/old-session'" in said


def test_a_slot_of_the_old_base_is_refused(engine_bin, model, tmp_path):
    command = [engine_bin("llama-server"), "-m", model, "-c", "512", "-np", "1", "--slot-save-path", tmp_path]
    with Server(command, tmp_path / "server.log") as server:

        def slot(action: str, name: str) -> int:
            body = f'{{"filename": "{name}"}}'.encode()
            request = urllib.request.Request(f"{server.url}/slots/0?action={action}", body, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return reply.status
            except urllib.error.HTTPError as error:
                assert b"Unable to restore slot" in error.read()
                return error.code

        server.client.completions.create(model="nano", prompt=PROMPT, max_tokens=2)
        assert slot("save", "slot") == 200
        assert slot("restore", "slot") == 200
        assert slot("restore", aged(tmp_path / "slot").name) == 400
        assert "sequence state file has version 2, but this build reads version 3" in server.log
        assert server.healthy()
