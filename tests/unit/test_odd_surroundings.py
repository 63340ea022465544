"""prune-dual where people stand: full disks, closed pipes, links, devices and odd names end in one line."""

import io
import os
import subprocess
import sys

import pytest

from gguf_files import small_twin
from prune_dual import Gguf
from prune_dual.cli import main

TAKE = ["--dual", "twin.gguf", "--variant", "0"]
LATIN_1 = os.fsdecode(b"latin\xfc.gguf")
LONG = "x" * 300
LISTED = '{"name": "%s", "bytes": 1, "sha256": "' + "0" * 64 + '"}'
MANIFEST = '{"format": "phase-twin-manifest", "version": 1, "files": [%s], "twin": {"file": "t", "tensors": []}}'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a twin and with what is no twin, to stand in."""
    monkeypatch.chdir(tmp_path)
    small_twin(tmp_path / "twin.gguf", groups=1)
    os.mkfifo("pipe.gguf")
    os.symlink("nowhere", "dangling.gguf")
    os.symlink("loop.gguf", "loop.gguf")
    (tmp_path / "not.json").write_bytes(b"\xff\xfe")
    for name, listed in (("long", LISTED % LONG), ("empty", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(MANIFEST % listed)
    (tmp_path / "empty/manifest.json.minisig").write_text("by nobody")
    return tmp_path


def call(*arguments: str) -> int:
    """The exit code of the command line."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--dual", "", "--dry-run"], 2, "--dual: is empty"),
        ([*TAKE, "--out", ""], 2, "'' is no name of a file"),
        ([*TAKE, "--out", "new/"], 2, "'new/' is no name of a file"),
        ([*TAKE, "--out", "o.gguf", "--manifest", ""], 2, "--manifest: is empty"),
        (["verify", ""], 2, "is empty: name a folder"),
        (["--dual", ".", "--dry-run"], 1, ".: Is a directory"),
        (["--dual", "twin.gguf/x.gguf", "--dry-run"], 1, "twin.gguf/x.gguf: Not a directory"),
        (["--dual", "pipe.gguf", "--dry-run"], 1, "pipe.gguf: is a device or a pipe"),
        (["--dual", "/dev/zero", "--dry-run"], 1, "/dev/zero: is a device or a pipe"),
        (["--dual", "loop.gguf", "--dry-run"], 1, "loop.gguf: Too many levels of symbolic links"),
        (["--dual", LONG, "--dry-run"], 1, "x: File name too long"),
        (["--dual", LATIN_1, "--dry-run"], 1, r"latin\udcfc.gguf: No such file"),
        (["--dual", "a\nb.gguf", "--dry-run"], 1, r"a\nb.gguf: No such file"),
        (["--dual", "a\x1b[31m.gguf", "--dry-run"], 1, r"a\x1b[31m.gguf: No such file"),
        ([*TAKE, "--out", "."], 1, ".: is a folder"),
        ([*TAKE, "--out", "..", "--force"], 1, "..: is a folder"),
        ([*TAKE, "--out", "twin.gguf/o.gguf"], 1, "the folder twin.gguf does not exist"),
        ([*TAKE, "--out", "/dev/null", "--force"], 1, "/dev/null: is a device or a pipe"),
        ([*TAKE, "--out", "pipe.gguf", "--force"], 1, "pipe.gguf: is a device or a pipe"),
        ([*TAKE, "--out", "dangling.gguf"], 1, "dangling.gguf: is a link to nowhere, which is no file"),
        ([*TAKE, "--out", "loop.gguf", "--force"], 1, "loop.gguf: is a link to loop.gguf, which is no file"),
        ([*TAKE, "--out", LONG], 1, "x: File name too long"),
        ([*TAKE, "--out", LONG, "--dry-run"], 1, "x: File name too long"),
        ([*TAKE, "--out", "x" * 250], 1, "cannot be written: File name too long"),
        ([*TAKE, "--out", "/sys/o.gguf"], 1, "/sys/o.gguf: "),
        ([*TAKE, "--out", "o.gguf", "--manifest", "long"], 1, "long: Is a directory"),
        ([*TAKE, "--out", "o.gguf", "--manifest", "not.json"], 1, "not.json: not a readable manifest"),
        ([*TAKE, "--out", "o.gguf", "--manifest", LONG], 1, "x: File name too long"),
        (["verify", "twin.gguf"], 1, "name the folder of a release"),
        (["verify", LONG], 1, "x/manifest.json: File name too long"),
        (["verify", "long"], 1, "x: File name too long"),
        (["verify", "empty", "--key", "z" * 5000], 1, "manifest.json.minisig"),
    ],
)
def test_odd_requests_end_in_one_line(here, capsys, arguments, code, words):
    before = sorted(os.listdir(here))
    assert call(*arguments) == code
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert len(said) == 1 or code == 2
    assert sorted(os.listdir(here)) == before


class Full(io.RawIOBase):
    """A stream on a disk without room."""

    def writable(self):
        return True

    def write(self, _):
        raise OSError(28, "No space left on device")


def full() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(Full()), write_through=True)


def without_reader() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return io.TextIOWrapper(open(writer, "wb"))


@pytest.mark.parametrize(
    ("stdout", "code", "words"),
    [
        (full, 1, "standard output: No space left on device"),
        (without_reader, 141, "the reader of the output has gone"),
        (lambda: None, 1, "standard output is closed"),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], ""),
        (["verify", "--help"], ""),
        ([*TAKE, "--dry-run"], ""),
        ([*TAKE, "--dry-run", "--json"], ""),
        ([*TAKE, "--engine-flags"], ""),
        ([*TAKE, "--out", "o.gguf"], ", but o.gguf is written"),
    ],
)
def test_output_that_is_not_taken_is_an_error(here, capsys, monkeypatch, stdout, code, words, arguments, more):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout())
        assert call(*arguments) == code
    assert capsys.readouterr().err == f"prune-dual: {words}{more}\n"
    assert (here / "o.gguf").exists() == bool(more)


def test_python_ends_in_peace_after_a_pipe_that_closed(here, root):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, root / "scripts/prune-dual.py", *TAKE, "--dry-run"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "prune-dual: the reader of the output has gone\n")


def test_a_name_that_is_not_utf_8(here, capsys):
    os.rename("twin.gguf", LATIN_1)
    assert call("--dual", LATIN_1, "--variant", "0", "--out", "o.gguf") == 0
    assert "latin\\udcfc.gguf: 1 groups" in capsys.readouterr().out
    assert Gguf.read("o.gguf").get("phase_twin.pruned_from", "str") == "latin\\xfc.gguf"


@pytest.mark.parametrize("name", ["日本.gguf", LATIN_1, "a\nb.gguf"])
def test_a_terminal_that_lacks_a_character(here, monkeypatch, name):
    os.rename("twin.gguf", name)
    narrow = io.TextIOWrapper(io.BytesIO(), "latin-1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        assert call("--dual", name, "--variant", "0", "--out", f"out-{name}") == 0
    lines = narrow.buffer.getvalue().decode("latin-1").splitlines()
    assert (len(lines), lines[-1].startswith("wrote out-")) == (3, True)


@pytest.mark.parametrize(
    "request_", [["--dry-run"], ["--dry-run", "--vram-gib", "16"], ["--out", "o.gguf", "--variant", "0"]]
)
def test_an_architecture_that_is_no_text(here, capsys, request_):
    small_twin(here / "bad.gguf", groups=1)
    data = (here / "bad.gguf").read_bytes()
    (here / "bad.gguf").write_bytes(data.replace(b"qwen35moe", b"qwen35\xffoe"))
    assert call("--dual", "bad.gguf", *request_) == 1
    assert capsys.readouterr().err == "prune-dual: bad.gguf: key 'general.architecture' is not UTF-8\n"


def test_a_link_to_a_file_is_replaced_on_request_only(here, capsys):
    (here / "kept.gguf").write_text("mine")
    os.symlink("kept.gguf", "link.gguf")
    assert call(*TAKE, "--out", "link.gguf") == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert call(*TAKE, "--out", "link.gguf", "--force") == 0
    assert (here / "kept.gguf").read_text() == "mine"


def test_what_the_surroundings_do_where_nothing_looks_for_it(here, capsys, monkeypatch):
    for fault, line in (
        (OSError(5, "Input/output error", "twin.gguf"), "twin.gguf: Input/output error"),
        (OSError("no CA bundle"), "no CA bundle"),
        (MemoryError(), "out of memory"),
    ):

        def fail(*_, fault=fault, **__):
            raise fault

        monkeypatch.setattr("prune_dual.cli.prune.select", fail)
        assert call(*TAKE, "--dry-run") == 1
        assert capsys.readouterr().err == f"prune-dual: {line}\n"
