"""A look at a twin: what would fit common cards."""

import json

import pytest

from gguf_files import published_twin
from prune_dual import MIB, Gguf
from prune_dual.cli.table import Curve
from remote_twin import OVERHEAD, run, selected_nbytes, sent


def test_a_look_reads_the_head_only(hub, url, twin, out, capfd):
    points = [{"bytes": 0, "kld_predicted": 0.1}, {"bytes": 100 * MIB, "kld_predicted": 0.2, "more": 1}]
    hub.files["files/curve.json"] = json.dumps({"points": points}).encode()
    done = run(capfd, "--dual", url, "--out", out, "--variant", "1", "--dry-run")
    assert done.code == 0, done.stderr
    assert sent(hub) <= Gguf.read(twin).data_start + OVERHEAD
    assert not list(out.parent.iterdir())
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    table = [[cell.strip() for cell in line if cell] for line in lines if len(line) > 3]
    size = selected_nbytes(twin, variant=1) / MIB
    assert table[0] == [
        "card", "room for weights", "promoted", "weights", "of the promotion", "to fetch", "predicted KLD",
    ]  # fmt: skip
    assert [row[0] for row in table[1:]] == ["8 GiB", "as asked"]  # the first card takes all of this twin
    assert table[1][1:5] == ["7680 MiB", "4 of 4", f"{size:.2f} MiB", "100 %"]
    assert float(table[1][5].split()[0]) == pytest.approx(size, abs=0.05)
    assert float(table[1][6]) == pytest.approx(0.1 + 0.1 * size / 100, abs=1e-4)


def test_a_look_at_a_large_twin(tmp_path, capfd):
    done = run(capfd, "--dual", published_twin(tmp_path / "big.gguf"), "--dry-run", "--budget-mb", "15400")
    rows = [line.split() for line in done.stdout.splitlines() if " GiB " in line and line.endswith("%")]
    assert [row[:2] for row in rows[:-1]] == [["16", "GiB"], ["20", "GiB"]]
    shares = [int(row[row.index("%") - 1]) for row in rows[:-1]]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert "to fetch" not in done.stdout


def test_an_unreadable_curve_is_left_out(hub, url, capfd, caplog):
    hub.files["files/curve.json"] = b'{"points": [{"bytes": 1}]}'
    done = run(capfd, "--dual", url, "--variant", "1", "--dry-run")
    assert done.code == 0
    assert "KLD" not in done.stdout
    assert "not a readable curve" in caplog.text


def test_curve():
    curve = Curve.parse(b'{"points": [{"bytes": 20, "kld_predicted": 1}, {"bytes": 10, "kld_predicted": 2}]}')
    assert [curve.at(nbytes) for nbytes in (9, 10, 12.5, 20, 21)] == [None, 2, 1.75, 1, None]
    with pytest.raises(ValueError, match="no points"):
        Curve.parse(b'{"points": []}')


@pytest.mark.parametrize("number", ["NaN", "1e999", "9" * 400, '"nan"', "null"])
def test_a_curve_of_odd_numbers_is_none(number):
    with pytest.raises(ValueError, match=r"finite|no list of points"):
        Curve.parse(b'{"points": [{"bytes": %s, "kld_predicted": 1}]}' % number.encode())
