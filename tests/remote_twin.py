"""A twin on a server of 127.0.0.1 for the tests of fetching, and what is asked of what comes of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from prune_dual import FileHash, GgufError, Manifest, Twin, cli, hash_gguf, prune, select
from prune_dual.transport.remote import open_remote
from prune_dual.transport.source import Output

REPO = "someone/some-twin"
NAME = "twin.gguf"
# what a request for a block of the head may bring beyond it
OVERHEAD = 300_000


def manifest_of(path: Path) -> str:
    twin = Twin.read(path)
    digest, hashes = hash_gguf(twin.gguf)
    return Manifest.of(twin, [FileHash(path.name, path.stat().st_size, digest)], hashes).json()


def edited(twin: Path, edit) -> str:
    data = json.loads(manifest_of(twin))
    edit(data)
    return json.dumps(data)


def fetch(url: str, out: Path, *, manifest: str | None = None, dual: Path | None = None, **request) -> None:
    """Fetch a selection as the command line would."""
    with open_remote(url, out) as source:
        found = source.neighbour("manifest.json", 1 << 20) if manifest is None else manifest.encode()
        parsed = None if not found else Manifest.parse(found, "manifest.json")
        selection = select(source.twin, **(request or {"variant": 1}))
        source.write(Output(selection, out, manifest=parsed))


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


def run(capfd, *arguments: object) -> SimpleNamespace:
    code = cli.main([str(argument) for argument in arguments])
    stdout, stderr = capfd.readouterr()
    return SimpleNamespace(code=code, stdout=stdout, stderr=stderr)
