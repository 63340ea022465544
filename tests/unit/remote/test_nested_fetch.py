"""A nested twin behind an address: base and plane of a tensor come from two places and become one."""

import pytest

from gguf_files import expert, nested_twin
from prune_dual import MIB, Gguf, Manifest, Twin
from prune_dual.transport import chunks, http
from prune_dual.transport import fetch as fetching
from remote_twin import NAME, OVERHEAD, fetch, manifest_of, pruned_locally, refused, run, selected_nbytes, sent

PLANE = 3  # the group whose bytes are damaged


@pytest.fixture
def twin(tmp_path):
    """The same twin as a local file: 4 groups of 1 MiB, a promotion is 0.4 MiB."""
    (tmp_path / "here").mkdir()
    return nested_twin(tmp_path / "here" / NAME)


def places(twin, group: int):
    """Where base and plane of a group are in the twin's file."""
    return Twin.read(twin).groups[expert(group, "gate")][1].sources


@pytest.mark.parametrize("request_", [{"variant": 0}, {"variant": 1}, {"promote": "1,3"}], ids=str)
def test_the_file_is_that_of_a_local_prune_and_only_its_parts_are_fetched(hub, url, twin, out, tmp_path, request_):
    fetch(url, out, **request_)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, **request_)
    head, selected = Gguf.read(twin).data_start, selected_nbytes(twin, **request_)
    assert selected < sent(hub) <= head + selected + OVERHEAD


@pytest.mark.parametrize("limit", [300, 1020, 5000])
def test_chunks_and_pieces_of_any_size(hub, url, twin, out, tmp_path, monkeypatch, limit):
    nested_twin(twin, groups=2, shape=(256, 5, 8))
    hub.files[f"files/{NAME}"], hub.files["files/manifest.json"] = twin.read_bytes(), manifest_of(twin).encode()
    monkeypatch.setattr(chunks, "CHUNK", limit)
    monkeypatch.setattr(http, "PIECE", 77)
    fetch(url, out, promote="0")
    assert out.read_bytes() == pruned_locally(twin, tmp_path, promote="0")


def test_cut_connections_are_gone_on_from(hub, url, twin, out, tmp_path):
    hub.faults.cut_after, hub.faults.cut_always = {NAME: 70_001}, True
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_an_interrupted_run_is_gone_on_from(hub, url, twin, out, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    monkeypatch.setattr(fetching, "WORKERS", 1)  # else how far the others are is a matter of luck
    base, plane = places(twin, 2)
    hub.faults.lie, hub.faults.lie_from = "short", plane.offset + 100_000
    refused(lambda: fetch(url, out), url)
    assert not out.exists()
    before = sent(hub)
    assert before > base.offset
    hub.faults.lie = ""
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert sent(hub) <= selected_nbytes(twin, variant=1) + Gguf.read(twin).data_start + 2 * OVERHEAD


@pytest.mark.parametrize("part", [0, 1], ids=["base", "plane"])
def test_damaged_bytes_are_fetched_once_more(hub, url, twin, out, tmp_path, caplog, part):
    span = places(twin, PLANE)[part]
    hub.faults.flip = {span.offset + 1001}
    fetch(url, out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    name = expert(PLANE, "gate") + ".r1" * part
    assert f"tensor {name!r} is not what the manifest says (1 such): fetching again" in caplog.text
    assert sent(hub) <= selected_nbytes(twin, variant=1) + span.nbytes + 2 * (MIB // 4) + OVERHEAD


@pytest.mark.parametrize("part", [0, 1], ids=["base", "plane"])
def test_bytes_that_stay_wrong_name_the_tensor(hub, url, twin, out, part):
    data = bytearray(twin.read_bytes())
    data[places(twin, PLANE)[part].offset + 1001] ^= 1
    hub.files[f"files/{NAME}"] = bytes(data)
    refused(lambda: fetch(url, out), url, f"{expert(PLANE, 'gate') + '.r1' * part!r}", "SHA-256", "the manifest says")
    assert not out.exists()


def test_the_manifest_ranks_planes_as_variant_1(twin):
    view = Twin.read(twin)
    entries = Manifest.parse(manifest_of(twin).encode(), "here").tensors
    assert [(entry.name, entry.variant, entry.rank) for entry in entries] == [
        ("token_embd.weight", 0, None),
        *((name, 0, rank) for rank, name in enumerate(view.groups)),
        *((f"{name}.r1", 1, rank) for rank, name in enumerate(view.groups)),
    ]


def test_the_command_line_verifies_by_the_hashes_of_the_parts(hub, url, twin, out, capfd):
    arguments = ["--dual", url, "--out", out, "--variant", "1", "--verify"]
    assert run(capfd, *arguments).code == 0
    assert run(capfd, *arguments, "--resume").code == 0
    data = bytearray(out.read_bytes())
    data[-33] ^= 1  # the end of the last plane, but for padding
    out.write_bytes(data)
    done = run(capfd, *arguments, "--resume")
    assert done.code == 1
    assert f"tensor '{expert(3, 'gate')}.r1': SHA-256 is" in done.stderr


def test_a_look_says_what_there_is_to_fetch(hub, url, twin, out, capfd):
    done = run(capfd, "--dual", url, "--variant", "1", "--dry-run")
    assert done.code == 0
    assert "4 of 4" in done.stdout
    assert sent(hub) <= Gguf.read(twin).data_start + OVERHEAD
