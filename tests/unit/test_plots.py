"""Plots: no text on another one, not on small and not on large models; the same bytes each time."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import draw_cpu
import draw_sensitivity
import draw_speed
import gather_curve
import gather_quality
import gather_timing
from phase_twin.experts import units
from phase_twin.plots import save
from phase_twin.side_by_side import KINDS, Round, ratio_rows
from plot_texts import check_texts

MIB, GIB = 2**20, 2**30
STOCK = {"iq3_xxs": 3.06, "q3_k": 3.4375, "iq3_s": 3.4375, "iq4_nl": 4.5, "iq4_xs": 4.25, "q4_k": 4.5}
OURS = {"variant-0": 3.1875, "variant-1": 4.5, "16gib": 3.5, "20gib": 4.2}


def quality() -> pd.DataFrame:
    """As many cases as a run may have, at the sizes of Nex-N2-mini."""
    rows = []
    for label, bits in (OURS | STOCK).items():
        size = int((2.5e9 * 6.56 + 32.2e9 * bits) / 8)
        kld = 0.3 * 2.0 ** (-1.6 * (bits - 1.5)) * (1.15 if label in STOCK else 1)
        rows.append({"label": label, "bytes": size, "kld_mean": kld, "kld_mean_err": kld / 60})
    return pd.DataFrame(rows)


def speed(depths: list[int]) -> pd.DataFrame:
    rows = [
        {"label": label, "test": test, "depth": depth, "t_s": t_s / (1 + depth / 9000), "stddev": t_s / 30}
        for label in OURS | STOCK
        for test, t_s in (("pp512", 1234.5), ("tg128", 61.2))
        for depth in depths
    ]
    rows[0]["stddev"] = rows[-1]["stddev"] = 300
    return pd.DataFrame(rows)


def cpu() -> dict:
    rounds = [Round(30.0, {test: dict.fromkeys(KINDS, 0.7) for test in draw_cpu.TESTS})] * 2
    ratios = ratio_rows(rounds, dict.fromkeys(KINDS, 1))
    return {"models": "mixed", "device": "AMD EPYC 9B14 96-Core Processor", "threads": 2, "ratios": ratios}


def order(layers: int, tie: bool, method: str = "measured") -> dict:
    draws = np.random.default_rng(3)
    members = list(units(range(layers), tie).values())
    names = [name for group in members for name in group]
    groups = [{"name": name, "benefit": draws.exponential(2e-4), "gain_bytes": 170 * MIB} for name in names]
    ties = [number for number, group in enumerate(members) for _ in group]
    return {"method": method, "promote_order": names, "promote_tie": ties if tie else None, "groups": groups}


def timing(seconds: float) -> pd.DataFrame:
    rows = [
        (f"measure_something_{number}", 1 + number, seconds / 2**number, (1 + number) * GIB) for number in range(20)
    ]
    return pd.DataFrame(rows, columns=["rule", "jobs", "seconds", "peak_bytes"])


def curve() -> dict:
    rows = quality().sort_values("bytes")
    low, high = rows.iloc[0], rows.iloc[-1]
    measured = [{"bytes": row.bytes, "kld": row.kld_mean, "kld_err": row.kld_mean_err} for _, row in rows.iterrows()]
    return {"points": gather_curve.predict(order(40, True), low, high), "measured": measured}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: gather_quality.draw(quality(), "Some-Model: KLD against BF16, 100 x 512 tokens", list(OURS), True),
        lambda: gather_quality.draw(quality(), "Some-Model: KLD against BF16, 100 x 512 tokens", ["q3_k"], False),
        lambda: gather_curve.draw(curve(), "Some-Model: what each further byte buys, 100 x 512 tokens"),
        lambda: draw_speed.draw(
            speed([0, 4096]), "Some-Model on AMD EPYC 9B14 96-Core Processor (CPU), 8 threads", OURS
        ),
        lambda: draw_speed.draw(speed([0]), "Some-Model on Intel(R) Arc(TM) A770 Graphics (SYCL), 8 threads", OURS),
        lambda: draw_sensitivity.draw(order(40, True), "Some-Model: what promoting each group is worth"),
        lambda: draw_sensitivity.draw(order(40, False, "weighted_error"), "Some-Model: each group"),
        lambda: gather_timing.draw(timing(40000), "Some-Model: 20 h 05 min of jobs"),
        lambda: draw_cpu.draw(cpu()),
        lambda: gather_timing.draw(timing(200), "Some-Model: 6 min of jobs"),
    ],
)
def test_no_text_is_on_another_one(draw):
    check_texts(draw())


def test_overlapping_texts_are_noticed():
    figure, axes = plt.subplots()
    axes.text(0.5, 0.5, "some text")
    axes.text(0.51, 0.5, "another")
    with pytest.raises(AssertionError, match="some text"):
        check_texts(figure)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_drawing_gives_the_same_bytes(tmp_path, suffix):
    for name in ("one", "two"):
        save(gather_quality.draw(quality(), "title", list(OURS), True), tmp_path / f"{name}.{suffix}")
    one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"date" not in one.lower()
    assert b"Software" not in one


def test_gains_are_those_of_what_is_promoted_together():
    document = order(2, True)
    names, gain = draw_sensitivity.gains(document)
    assert names == ["gate + up", "down"]
    benefit = {group["name"]: group["benefit"] for group in document["groups"]}
    assert gain[0, 1] == benefit["blk.1.ffn_gate_exps.weight"] + benefit["blk.1.ffn_up_exps.weight"]
    assert gain[1, 0] == benefit["blk.0.ffn_down_exps.weight"]
    assert draw_sensitivity.gains(order(2, False))[0] == ["gate", "up", "down"]


def test_a_layer_without_a_group_is_no_zero():
    document = order(3, True)
    for key in ("promote_order", "promote_tie", "groups"):
        # the last group: down of layer 2
        document[key].pop()
    gain = draw_sensitivity.gains(document)[1]
    assert np.isnan(gain[1, 2])
    assert np.isfinite(gain).sum() == 5


def test_jobs_are_summed_up_by_rule(tmp_path):
    def write(name: str, seconds: object, rss: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t{rss}\t2.0\n")

    write("model/mix-a.tsv", 3.0, 100.0)
    write("model/mix-b.tsv", 4.5, 300.0)
    write("model/quick.tsv", 0.1, "NA")
    write("model/of-an-earlier-version.tsv", 9.0, 1.0)
    write("engine/build.tsv", 6.0, 50.0)
    patterns = {
        "measure_mix": f"{tmp_path}/model/mix-(?P<mix>a|b)\\.tsv$",
        "build_engine": f"{tmp_path}/engine/build\\.tsv$",
    }
    patterns |= {"quick": f"{tmp_path}/model/quick\\.tsv$"}
    table = gather_timing.sum_up(gather_timing.read_jobs(tmp_path, patterns))
    assert list(table.rule) == ["measure_mix", "build_engine", "quick"]
    first = table.iloc[0]
    assert (first.jobs, first.seconds, first.longest, first.cpu_seconds) == (2, 7.5, 4.5, 4.0)
    assert list(table.peak_bytes) == [300 * MIB, 50 * MIB, 0]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(4.21, "4.2 s"), (59.97, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds, told):
    assert gather_timing.duration(seconds) == told
