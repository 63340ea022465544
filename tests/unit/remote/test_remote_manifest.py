"""Fetched tensors beside the manifest, and manifests that are none."""

import hashlib

import pytest

from gguf_files import expert
from prune_dual import MIB, FileHash, Manifest, Twin
from prune_dual.manifest.content import TensorHash
from remote_twin import (
    NAME,
    OVERHEAD,
    edited,
    fetch,
    manifest_of,
    pruned_locally,
    refused,
    selected_nbytes,
    sent,
)


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
