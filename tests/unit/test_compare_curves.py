"""Budget curves of two kinds of twin beside each other: values planted, and what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from compare_curves import Curve, at_sizes, compare_points, compare_shares, curve_tables, draw, main, read_curve
from phase_twin.errors import UserError
from phase_twin.positions import Positions
from phase_twin.quality import compare
from plot_texts import check_texts

MIB = 2**20
CHUNKS, POSITIONS = 20, 16
TEXT = {"reference": "BF16", "chunks": CHUNKS, "n_ctx": 34, "tokens_sha256": "ab12"}
# of the text, which both kinds suffer from
LEVEL = np.random.default_rng(5).lognormal(sigma=0.6, size=(CHUNKS, POSITIONS))


def positions(kld: float, seed: int, noise: float = 0.0) -> Positions:
    """Values whose mean is `kld`, by chunks as hard for all."""
    values = kld * LEVEL / LEVEL.mean() + noise * np.random.default_rng(seed).standard_normal(LEVEL.shape)
    values += kld - values.mean()
    nothing = np.zeros_like(values)
    return Positions(kld=values, nll=nothing, nll_base=nothing, same_top=nothing > 0)


def write(folder: Path, points: dict[int, tuple[int, float]], noise: float = 0.0, **text: str) -> Path:
    """Write what a run leaves of a curve: percent -> bytes and KLD, 0 and 100 for the phases."""
    rows = []
    for percent, (size, kld) in points.items():
        name = f"quality/variant-{percent // 100}" if percent in (0, 100) else f"orders/measured-{percent}"
        path = folder / f"bench/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = (
            TEXT | text | {"bytes": size, "kld_mean": kld, "kld_mean_err": kld / 20, "file": "results/x/Some-twin.gguf"}
        )
        path.write_text(json.dumps(row | ({"percent": percent} if percent % 100 else {})))
        positions(kld, percent + size, noise).save(path.with_suffix(".npz"))
        rows.append({"bytes": size, "kld": kld})
    (folder / "curve.json").write_text(json.dumps({"order": "measured", "measured": rows, "made_by": {}}))
    return folder


SIBLINGS = {0: (8 * MIB, 0.04), 20: (10 * MIB, 0.03), 100: (16 * MIB, 0.015)}
NESTED = {0: (8 * MIB, 0.04), 20: (9 * MIB, 0.03), 100: (13 * MIB, 0.012)}


@pytest.fixture
def curves(tmp_path) -> tuple[Curve, Curve]:
    return read_curve(write(tmp_path / "siblings", SIBLINGS)), read_curve(write(tmp_path / "nested", NESTED))


def test_points_stand_beside_straight_lines_between_those_of_siblings(curves):
    points = compare_points(*curves)
    assert [point["bytes"] for point in points] == [8 * MIB, 9 * MIB, 13 * MIB]
    assert [point["siblings"][0] for point in points] == pytest.approx([0.04, 0.035, 0.0225])
    assert [point["difference"]["diff"] for point in points] == pytest.approx([0, -0.005, -0.0105])


def test_no_size_beyond_the_large_phase_helps(curves):
    siblings, _ = curves
    assert np.allclose(at_sizes(siblings, np.array([20 * MIB]))[:, 0], siblings.klds[:, -1])


def test_errors_are_those_of_paired_differences(tmp_path):
    siblings = read_curve(write(tmp_path / "siblings", SIBLINGS, noise=0.001))
    at_a_point = NESTED | {20: (10 * MIB, 0.0299)}
    nested = read_curve(write(tmp_path / "nested", at_a_point, noise=0.002))
    point = compare_points(siblings, nested)[1]
    noisy = [Positions.load(tmp_path / kind / "bench/orders/measured-20.npz") for kind in ("nested", "siblings")]
    assert point["difference"] == pytest.approx(compare(*noisy)["kld_mean"], rel=1e-3)
    # what the text does to both cancels
    assert point["difference"]["err"] < point["kld"][1] / 2


def test_each_kind_closes_a_share_of_its_own_gap(curves):
    (row,) = compare_shares(*curves)
    assert row["percent"] == 20
    assert row["added"] == pytest.approx([25, 20])
    assert [value for value, _ in row["closed"]] == pytest.approx([40, 100 * 10 / 28])
    assert row["difference"]["diff"] == pytest.approx(100 * 10 / 28 - 40)


def test_tables(curves):
    lines = curve_tables(*curves).splitlines()
    assert lines[0] == "| nested twin | loaded MiB | mean KLD | siblings with as many bytes | difference |"
    assert [line.split(" | ")[:2] for line in lines[2:5]] == [
        ["| variant 0", "8.00"],
        ["| +20 %", "9.00"],
        ["| variant 1", "13.00"],
    ]
    assert lines[2].endswith("not told apart |")
    assert lines[3].endswith("better |")
    assert lines[6] == "Of 3 points 2 are better than siblings, 0 worse."
    assert lines[-1].startswith("| +20 % | 40.0 ± ")


def test_a_percentage_no_longer_asked_for_is_left_out(tmp_path):
    folder = write(tmp_path / "one", SIBLINGS | {40: (12 * MIB, 0.5)})
    told = json.loads((folder / "curve.json").read_text())
    told["measured"].pop()
    (folder / "curve.json").write_text(json.dumps(told))
    assert read_curve(folder).percents == [0, 20, 100]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens_sha256": "cd34"}, "nested: tokens_sha256 is cd34 at 0 %, but ab12 in .*siblings; measure both"),
        ({"reference": "Q6_K"}, "reference is Q6_K"),
    ],
)
def test_other_texts_and_references_are_refused(tmp_path, change, says):
    curves = [
        read_curve(write(tmp_path / "siblings", SIBLINGS)),
        read_curve(write(tmp_path / "nested", NESTED, **change)),
    ]
    with pytest.raises(UserError, match=says):
        curve_tables(*curves)


def test_a_smaller_small_phase_is_refused(tmp_path):
    less = NESTED | {0: (7 * MIB, 0.04)}
    curves = [read_curve(write(tmp_path / "siblings", SIBLINGS)), read_curve(write(tmp_path / "nested", less))]
    with pytest.raises(UserError, match="variant 0 has 7340032 bytes, fewer than"):
        curve_tables(*curves)


def test_a_curve_of_other_rows_is_refused(tmp_path):
    folder = write(tmp_path / "one", SIBLINGS)
    write(folder.with_name("two"), SIBLINGS | {20: (10 * MIB, 0.031)})
    folder.with_name("two").joinpath("curve.json").rename(folder / "curve.json")
    with pytest.raises(UserError, match=r"curve\.json is not made of the rows in bench/"):
        read_curve(folder)


def test_what_is_missing_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare_curves", str(tmp_path), str(tmp_path), "out.svg"])
    with pytest.raises(
        SystemExit, match=r"compare_curves: .*curve\.json is missing: let Snakemake make .*curve\.json$"
    ):
        main()


def test_no_text_of_the_plot_is_on_another_one(curves):
    check_texts(draw(*curves))
