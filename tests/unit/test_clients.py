"""dev/run clients: which file it takes, how a client's answer is judged, how one that fails is told."""

import re
import sys
from pathlib import Path

import pytest

from clients import CLIENTS, Answer, ask, engine_text, plain_file, row
from gguf_files import IQ3_A770, IQ3_KEYS, PLAIN, Q8_0, filled, small_twin, write
from phase_twin.errors import UserError
from prune_dual import Gguf


def plain(path: Path, kind: int) -> Path:
    return write(path, [*PLAIN, *IQ3_KEYS], [filled("blk.0.ffn_up_exps.weight", (256, 2, 2), kind)])


def test_a_twin_is_cut_with_all_promoted(tmp_path):
    twin = small_twin(tmp_path / "twin.gguf")
    fit = Gguf.read(plain_file(twin, tmp_path))
    kinds = {tensor.type for tensor in fit.tensors if "_exps" in tensor.name}
    assert kinds == {Q8_0}
    assert not [tensor.name for tensor in fit.tensors if tensor.name.endswith(".v1")]


def test_a_plain_file_is_taken_as_it_is(tmp_path):
    path = plain(tmp_path / "fit.gguf", Q8_0)
    assert plain_file(path, tmp_path) == path


def test_a_file_that_no_client_reads_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"fit\.gguf: has experts of IQ3_A770.*--variant 1"):
        plain_file(plain(tmp_path / "fit.gguf", IQ3_A770), tmp_path)


def test_a_missing_twin_and_a_missing_engine_say_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match="make nano"):
        plain_file(tmp_path / "none.gguf", tmp_path)
    with pytest.raises(UserError, match="make nano"):
        engine_text(tmp_path / "llama-completion", tmp_path / "fit.gguf")


def test_the_engine_s_empty_last_line_does_not_count(tmp_path):
    tool = tmp_path / "llama-completion"
    tool.write_text("#!/bin/sh\nprintf ' a b\\n\\n'\n")
    tool.chmod(0o755)
    assert engine_text(tool, tmp_path / "fit.gguf") == " a b"


@pytest.mark.parametrize(
    ("answer", "cells"),
    [
        (Answer("1.0", " a b\n"), ("yes", "equal")),
        (Answer("1.0", " a c"), ("yes", "' a c' for ' a b'")),
        (Answer("", None, "ValueError: 770"), ("no", "ValueError: 770")),
    ],
)
def test_an_answer_is_judged(answer, cells):
    assert row("client", answer, " a b")[2:] == cells


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ('open(sys.argv[4], \'w\').write(\'{"version": "2.0", "text": " a"}\')', Answer("2.0", " a")),
        ("raise ValueError('type 770')", Answer("", None, "ValueError: type 770")),
        ("print('nothing written')", Answer("", None, "no message")),
    ],
)
def test_a_client_answers_in_a_file_or_with_its_last_line(tmp_path, code, answer):
    program = tmp_path / "run.py"
    program.write_text(f"import sys\n{code}\n")
    assert ask(Path(sys.executable), program, tmp_path / "fit.gguf") == answer


def test_versions_in_the_docs_are_those_that_are_pinned(root):
    docs = (root / "docs/clients.md").read_text()
    for name in CLIENTS:
        version = re.search(rf"^{name}==(\S+)", (root / f"envs/clients/{name}.lock").read_text(), re.MULTILINE)[1]
        assert f"| {name} | {version} | yes | equal |" in docs
