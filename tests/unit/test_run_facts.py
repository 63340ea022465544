"""Facts of runs: what the engine says it did stands in results, and what it could not do is told."""

import struct

import numpy as np
import pytest

from measure_quality import ran_on, text_facts
from phase_twin.errors import UserError
from phase_twin.run_facts import devices_and_threads, require_card, run_over_text

SYSTEM = "0.00.070 I system_info: n_threads = 3 (n_threads_batch = 3) / 8 | CPU : AVX = 1 |\n"
CARD = "0.00.1 I llama_model_load_from_file_impl: using device SYCL{} ({}) (0000:0{}:00.0) - 15473 MiB free\n"
ARC = "Intel(R) Arc(TM) A770 Graphics"


@pytest.mark.parametrize(
    ("cards", "device"),
    [
        ([], "CPU"),
        ([ARC], f"SYCL0 ({ARC})"),
        ([ARC, "Other (12 GB)"], f"SYCL0 ({ARC}), SYCL1 (Other (12 GB))"),
    ],
)
def test_devices_are_those_that_the_engine_names(cards, device):
    named = "".join(CARD.format(number, card, number + 3) for number, card in enumerate(cards))
    # memory is fitted with a model of its own, which is put on the same cards
    assert devices_and_threads(named * 2 + SYSTEM) == {"device": device, "threads": 3}


def test_an_engine_that_does_not_say_its_threads_is_refused():
    with pytest.raises(UserError, match="no line with n_threads"):
        devices_and_threads("something else")


def test_figures_of_the_cpu_are_none_of_a_card():
    require_card("cpu", "AMD EPYC", False)
    require_card("sycl", ARC, True)
    with pytest.raises(UserError, match=r"engine\.backend is sycl, but the engine measured on AMD EPYC: look for the"):
        require_card("sycl", "AMD EPYC", False)
    with pytest.raises(UserError, match=r"\(vulkaninfo --summary must list it; GGML_VK_VISIBLE_DEVICES=0 takes one"):
        require_card("vulkan", "AMD EPYC", False)


def fake(tmp_path, printed: str, code: int = 0) -> str:
    """A program that prints something."""
    program = tmp_path / "llama-imatrix"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


def take(program: str, tmp_path, **more) -> int:
    return run_over_text(
        [program], str(tmp_path / "tool.log"), "my.txt", n_ctx=512, setting="imatrix.chunks", **{"chunks": None} | more
    )


TAKEN = "compute_imatrix: computing over 15 chunks, n_ctx=512, batch_size=2048, n_seq=4"


@pytest.mark.parametrize("asked", [None, 15])
def test_chunks_are_counted_by_the_engine(tmp_path, caplog, asked):
    assert take(fake(tmp_path, TAKEN), tmp_path, chunks=asked) == 15
    assert "asks for" not in caplog.text


def test_fewer_chunks_than_asked_for_are_told(tmp_path, caplog):
    assert take(fake(tmp_path, TAKEN), tmp_path, chunks=100) == 15
    told = "my.txt: has 15 chunks of 512 tokens, imatrix.chunks asks for 100: all of them are taken"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [told]


SHORT = "the data file you provided tokenizes to only 437 tokens"
REMOVED = "compute_imatrix: there will be not enough tokens left after removing 30 chunks"


@pytest.mark.parametrize(
    ("printed", "code", "more", "told"),
    [
        (SHORT, 0, {}, "my.txt: has 437 tokens, a run over chunks of 512 needs 1024: give a longer text, or set"),
        (SHORT, 1, {}, "my.txt: has 437 tokens, a run over chunks of 512 needs 1024: give a longer text, or set"),
        (TAKEN, 0, {"first": 8, "chunks": 20, "shared": True}, "has 23 chunks of 512 tokens, imatrix.chunks asks for"),
        (REMOVED, 1, {"first": 30, "chunks": 8, "shared": True}, "my.txt: has no more than 32 chunks of 512 tokens"),
        ("something else", 0, {}, "output does not say how many chunks were taken"),
        ("something else", 3, {}, r"llama-imatrix failed \(exit code 3\)"),
    ],
)  # fmt: skip
def test_a_text_that_is_too_short_is_one_line(tmp_path, printed, code, more, told):
    with pytest.raises(UserError, match=told) as caught:
        take(fake(tmp_path, printed, code), tmp_path, **more)
    assert "failed" in told or "\n" not in str(caught.value)


def test_a_row_of_parts_names_each_machine_only_where_they_differ():
    card = {"device": "SYCL0 (A)", "threads": 8}
    assert ran_on([card, card]) == card
    assert ran_on([card, card | {"threads": 4}]) == {"device": "SYCL0 (A)", "threads": [8, 4]}


def test_a_row_says_which_tokens_it_is_over(tmp_path):
    def logits(tokens) -> str:
        data = b"_logits_" + struct.pack("<III", tokens.shape[1], 99, len(tokens)) + tokens.astype("<i4").tobytes()
        (tmp_path / "logits").write_bytes(data)
        return str(tmp_path / "logits")

    tokens = np.arange(24).reshape(3, 8)
    found = text_facts(logits(tokens), 3)
    assert (found["chunks"], found["n_ctx"], found["tokens"]) == (3, 8, 24)
    assert text_facts(logits(tokens + 1), 3)["tokens_sha256"] != found["tokens_sha256"]
    # of a longer text only what was measured counts
    assert text_facts(logits(np.arange(40).reshape(5, 8)), 3) == found
