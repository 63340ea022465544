"""A twin here and on a server, with a manifest beside it."""

import pytest

from gguf_files import small_twin
from hub_server import HubServer
from prune_dual import MIB
from prune_dual.transport import chunks, http
from remote_twin import NAME, manifest_of


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(http, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(chunks, "CHUNK", MIB // 4)
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
