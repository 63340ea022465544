"""Rows of speed that were sent in: which are refused and with what line, and the table of those that are there."""

import json
import sys
from pathlib import Path
from typing import get_args

import pytest

import check_rows
from community_rows import a_row
from phase_twin.community import PLACE, Figure, read_row, read_rows, row_files
from phase_twin.errors import UserError
from update_tables import community_table


def write(folder: Path, row: dict | str, name: str = "reported/row.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    return path


def test_a_row_is_read(tmp_path):
    row = read_row(write(tmp_path, a_row()))
    assert row.machine.driver == "1.3.27642"
    assert [figure.text for figure in row.figures[:3]] == [
        "600.50 ± 0.50",
        "80.20 ± 0.15",
        "the context could not be made",
    ]


def changed(*keys, to):
    """The row with one value replaced; None as the last key appends."""
    row = a_row()
    place = row
    for key in keys[:-1]:
        place = place[key]
    if keys[-1] is None:
        place.append(to)
    else:
        place[keys[-1]] = to
    return row


def without(*keys):
    row = a_row()
    place = row
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return row


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("{", "Invalid JSON: "),
        ("[]", "Input should be an object"),
        (changed("user", to="x"), "user: unknown key; remove it or check its spelling"),
        (changed("machine", "host", to="x"), "machine.host: unknown key; remove it or check its spelling"),
        (without("file", "sha256"), "file.sha256: missing; add it (community/row.schema.json describes it)"),
        (changed("format", to=2), "format = 2: Input should be 1"),
        (changed("date", to="9999-12-31"), "date = '9999-12-31': is in the future"),
        (changed("date", to="yesterday"), "date = 'yesterday': Input should be a valid date"),
        (changed("file", "sha256", to="AB" * 32), "file.sha256 = 'ABAB"),
        (changed("file", "name", to="/home/somebody/model"), "file.name = '/home/somebody/model': may tell a folder"),
        (changed("file", "name", to="of me@example.org"), "file.name = 'of me@example.org': may tell a folder"),
        (changed("machine", "cpu", to="a\nb"), "machine.cpu = 'a\\nb': String should match"),
        (changed("machine", "driver", to="somebody"), "machine.driver = 'somebody': String should match"),
        (changed("machine", "kernel", to="6.8.0-somebody"), "machine.kernel = '6.8.0-somebody': String should match"),
        (changed("settings", "rounds", to=4), "settings.rounds = 4: must be odd"),
        (changed("settings", "rounds", to=1), "settings.rounds = 1: Input should be greater than or equal to 3"),
        (changed("settings", "rounds", to="3"), "settings.rounds = '3': Input should be a valid integer"),
        (changed("settings", "depths", to=[4096, 0]), "settings.depths = [4096, 0]: must ascend"),
        (changed("settings", "tests", to=["tg128", "pp512"]), "settings: tests: must be a prompt and a generation"),
        (changed("settings", "paths", to=["dormant"]), "settings: paths: must be live, or live and dormant"),
        (changed("phases", 0, "promoted", to=121), "phases.0: promoted tensors are among the groups"),
        (changed("phases", 0, "devices", to=[]), "phases.0.devices = []: List should have at least 1 item"),
        (changed("figures", 0, "t_s", to=600.0), "figures.0: t_s is 600, but the median of its samples is 600.5"),
        (changed("figures", 0, "t_s", to=0), "figures.0.t_s = 0: Input should be greater than 0"),
        (changed("figures", 0, "samples", 2, to=-1), "figures.0.samples.2 = -1: Input should be greater than 0"),
        (changed("figures", 0, "samples", None, to=600.5), "figures.0: 4 samples in 3 rounds"),
        (changed("figures", 0, "error", to="the program failed"), "figures.0: has either t_s and samples, or error"),
        (without("figures", 2, "error"), "figures.2: has either t_s and samples, or error"),
        (changed("figures", 2, "error", to="/home/me"), "figures.2.error = '/home/me': Input should be 'the weights"),
        (changed("figures", 1, "test", to="tg64"), "figures.1: by phases and settings this is the place of 0, live, 0"),
        (
            changed("figures", 0, "depth", to=7),
            "figures.0: by phases and settings this is the place of 0, live, 0, pp5",
        ),
        (without("figures", 7), "figures: 7, but phases and settings have 8"),
        (changed("figures", None, to=a_row()["figures"][7]), "figures: 9, but phases and settings have 8"),
        (changed("phases", None, to=a_row()["phases"][0]), "phases: each variant of a twin stands there once"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, row, line):
    path = write(tmp_path, row)
    with pytest.raises(UserError) as error:
        read_row(path)
    assert str(error.value).startswith(f"{path}: {line}")
    assert "\n" not in str(error.value)


def test_not_a_number_is_no_speed(tmp_path):
    text = json.dumps(a_row()).replace("600.0", "NaN")
    with pytest.raises(UserError, match=r"figures\.0\.samples\.0"):
        read_row(write(tmp_path, text))


def test_a_row_without_any_figure_is_none(tmp_path):
    row = a_row()
    for figure in row["figures"]:
        figure.pop("t_s", None)
        figure.pop("samples", None)
        figure["error"] = "the weights did not load"
    with pytest.raises(UserError, match="figures: none was measured"):
        read_row(write(tmp_path, row))


def test_the_program_and_the_format_agree(bench_nx2):
    """The release carries the program alone, so it has its own list of what may be said."""
    said = {*bench_nx2.REASONS.values(), bench_nx2.FAILED, bench_nx2.SLOW, bench_nx2.DEEPER}
    allowed, _ = get_args(Figure.model_fields["error"].annotation)
    assert said == {*get_args(allowed)}
    assert bench_nx2.PLACE.pattern == PLACE.pattern


def test_the_page_shows_the_rows_that_are_there(root):
    page = (root / "docs/speed.md").read_text()
    shown = page.split("<!-- community -->")[1].split("<!-- end community -->")[0].strip()
    assert shown == community_table(read_rows(row_files(root))), "run dev/run update_tables --measured"


def test_no_rows_are_told():
    assert community_table([]) == "No row has been sent in yet."


def test_the_table_says_which_rows_were_repeated(tmp_path):
    write(tmp_path / "community", a_row(file={"name": "A-Model"}), "verified/a.json")
    write(tmp_path / "community", a_row(engine={"base": None, "patch": None}, machine={"driver": None}))
    write(tmp_path / "community", "what else lies there", "reported/notes.txt")
    head, _, *lines = community_table(read_rows(row_files(tmp_path))).splitlines()
    assert head.startswith("|  | model | phase | device | backend, driver | engine | self-test | path |")
    card = "Intel(R) Arc(TM) A770 Graphics"
    assert lines[0] == (
        f"| verified | A-Model | small | {card} | SYCL 1.3.27642 | 0c1e57098-9d1dcaf8 | passed | live | 0 "
        "| pp512, tg128 | 600.50 ± 0.50 | 80.20 ± 0.15 | 2026-11-30 |"
    )
    assert lines[4].startswith(f"| reported | Some-Model | small | {card} | SYCL | unknown | passed | live | 0 |")
    assert len(lines) == 8


def test_a_row_elsewhere_has_no_status(tmp_path):
    with pytest.raises(UserError, match="rows lie in community/reported or verified"):
        read_rows([write(tmp_path, a_row(), "elsewhere/row.json")])


def test_rows_are_checked(tmp_path, monkeypatch, capsys):
    right, wrong = write(tmp_path, a_row()), write(tmp_path, without("date"), "reported/wrong.json")
    for paths, code in (([right], 0), ([wrong, tmp_path / "none.json", right], 1)):
        monkeypatch.setattr(sys, "argv", ["check_rows", *map(str, paths)])
        with pytest.raises(SystemExit) as ended:
            check_rows.main()
        assert ended.value.code == code
        told = capsys.readouterr()
        figures = "4 figures, 4 not to be had: Some-Model, Intel(R) Arc(TM) A770 Graphics (SYCL), 2026-11-30"
        assert told.out == f"{right}: {figures}\n"
    assert told.err.splitlines() == [
        f"{wrong}: date: missing; add it (community/row.schema.json describes it)",
        f"cannot read {tmp_path / 'none.json'}: No such file or directory",
    ]
