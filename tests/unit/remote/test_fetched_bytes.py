"""What is fetched of a twin that is somewhere else, and in how much memory."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gguf_files import IQ3_A770, IQ3_KEYS, Q4_K, Q8_0, Raw, expert, filled, small_twin, twin_keys, write
from prune_dual import MIB, Gguf, Span, Tensor
from prune_dual.transport import chunks
from remote_twin import NAME, OVERHEAD, fetch, pruned_locally, selected_nbytes, sent
from small_run import ROOT


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


@pytest.mark.parametrize("alignment", [8, 16, 64])
def test_data_stands_on_32_bytes_at_least(hub, out, tmp_path, alignment):
    group = expert(0, "gate")
    tensors = [filled("n", (3,), 0), filled(group, (256, 3), Q4_K), filled(f"{group}.v1", (256, 3), Q8_0)]
    keys = [*twin_keys([group]), ("general.alignment", "u32", alignment), ("c2pa:manifest", "[u8]", [1, 2])]
    twin = write(tmp_path / NAME, keys, tensors, alignment=alignment)
    hub.files[NAME] = twin.read_bytes()
    fetch(f"{hub.url}/{NAME}", out)
    assert Gguf.read(out).alignment == max(32, alignment)
    assert "c2pa:manifest" not in Gguf.read(out).kv
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)


def test_chunks_join_neighbours_and_are_cut():
    places = zip((1000, 1032, 5000), (64, 96, 128), strict=True)
    placed = [(Tensor("t", (3,), 0, Span(Path("twin"), at, 12)), to) for at, to in places]
    assert chunks.plan_chunks(placed, 32) == [chunks.Chunk(1000, 64, 44), chunks.Chunk(5000, 128, 12)]


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
