"""How a rule script calls tools and ends."""

import logging
from types import SimpleNamespace

import pytest

from phase_twin.errors import UserError
from phase_twin.files import atomic_output
from phase_twin.rule import Progress, run_rule, run_tool
from prune_dual import GgufError


def test_output_goes_to_the_tool_log_and_is_returned(tmp_path):
    log = tmp_path / "sub/tool.log"
    assert run_tool(["sh", "-c", "echo out; echo err >&2"], log).split() == ["out", "err"]
    run_tool(["echo", "more"], log, append=True)
    assert log.read_text().split() == ["out", "err", "more"]


def test_a_failing_tool_shows_its_tail(tmp_path):
    with pytest.raises(
        UserError, match=r"(?s)sh failed \(exit code 3\); its log is .*tool\.log and ends:.*line 40"
    ) as error:
        run_tool(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"], tmp_path / "tool.log")
    assert "line 20\n" not in str(error.value)


def test_a_killed_tool_names_the_signal(tmp_path):
    with pytest.raises(UserError, match="killed by signal 9"):
        run_tool(["sh", "-c", "kill -9 $$"], tmp_path / "tool.log")


def test_a_tool_that_hangs_is_killed(tmp_path):
    with pytest.raises(UserError, match=r"sleep failed \(killed after 0.1 seconds\)"):
        run_tool(["sleep", "60"], tmp_path / "tool.log", seconds=0.1)
    assert run_tool(["echo", "done"], tmp_path / "tool.log", seconds=60) == "done\n"


def test_a_missing_tool_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot start no-such-tool: No such file or directory"):
        run_tool(["no-such-tool"], tmp_path / "tool.log")


def test_progress_is_told_in_the_log_where_there_is_no_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Progress, "SECONDS", 0)
    caplog.set_level(logging.INFO, "phase_twin")
    run_tool(["echo", "[3/12] x"], tmp_path / "log", progress=r"\[(?P<done>\d+)/(?P<total>\d+)\]", label="build")
    run_tool(["echo", "[7]5.1,"], tmp_path / "log", progress=r"\[(?P<done>\d+)\]", total=9)
    assert "build: 3 of 12" in caplog.text
    assert "echo: 7 of 9" in caplog.text


@pytest.mark.parametrize("error", [UserError("the disk is full; free some"), GgufError("x.gguf: not a GGUF file")])
def test_a_users_mistake_is_one_line(tmp_path, capsys, error):
    def main(_):
        raise error

    log = tmp_path / "rule.log"
    with pytest.raises(SystemExit) as exit_:
        run_rule(main, SimpleNamespace(log=[str(log)], input=[], rule="pack_twin"))
    assert exit_.value.code == 1
    for text in (log.read_text(), capsys.readouterr().err):
        assert text.splitlines()[0].endswith(f"ERROR pack_twin: {error}")
        assert "Traceback" not in text


def test_a_defect_keeps_its_traceback(tmp_path):
    log = tmp_path / "rule.log"
    with pytest.raises(SystemExit):
        run_rule(lambda _: 1 / 0, SimpleNamespace(log=[str(log)], input=[], rule="pack_twin"))
    assert "ZeroDivisionError" in log.read_text()


def test_an_output_appears_only_when_complete(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_output(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_output(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    with pytest.raises(UserError, match="result: nothing was written to it"), atomic_output(path):
        pass
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize(("free", "left"), [(1 << 30, "half"), (0, None)])
def test_what_a_writer_goes_on_from_is_kept_unless_the_disk_is_full(tmp_path, monkeypatch, free, left):
    path = tmp_path / "result"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(UserError), atomic_output(path, resumes=True) as partial:
        partial.write_text("half")
        partial.with_name(f"{partial.name}.journal").write_text("record")
        raise UserError("the tool was killed")
    assert {entry.name for entry in tmp_path.iterdir()} == (
        {partial.name, f"{partial.name}.journal"} if left else set()
    )
    with atomic_output(path, resumes=True) as partial:
        assert partial.read_text() == (left or "")
        partial.write_text("whole")
    assert path.read_text() == "whole"
