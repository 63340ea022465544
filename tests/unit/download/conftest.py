"""A hub on 127.0.0.1 and sources that point at it."""

import io
import zipfile

import pytest
import yaml

from downloads import FILES, REPO, ROOT, TEXT, sha256
from hub_server import HubServer
from phase_twin import fetch


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
