"""The tables of the report: sizes in their unit, errors beside values, all that was measured."""

import pandas as pd

from phase_twin.card import format_size
from write_tables import curve_table, kinds_table, quality_table, speed_table, timing_table


def test_sizes_are_told_in_their_unit():
    assert format_size(2**34 + 2**29) == "16.50 GiB"
    assert format_size(9431584) == "8.99 MiB"


def test_values_stand_beside_their_errors():
    row = {"label": "9mib", "bytes": 2**23, "bpw_experts": 3.2969, "kld_mean": 0.0341, "kld_mean_err": 0.0004}
    row |= {
        "kld_median": 0.01,
        "kld_p999": 0.7,
        "top1": 90.7,
        "top1_err": 0.2,
        "ppl_ratio": 1.02,
        "ppl_ratio_err": 0.001,
        "kld_99": 0.3,
        "kld_max": 2.345,
    }
    (shown,) = quality_table([row | {"difference": None}])
    assert shown["mean KLD [nats]"] == "0.03410 ± 0.00040"
    assert shown["weights"] == "8.00 MiB"
    assert shown["largest KLD"] == "2.35"
    assert "mean KLD to q3_k" not in shown
    apart = {"kld_mean": {"diff": -0.003, "err": 0.0005, "z": -6.0}, "top1": {"diff": 0.3, "err": 0.1, "z": 3.0}}
    apart |= {"to": "q3_k", "ln_ppl": {"diff": 0.001, "err": 0.001, "z": 1.0}}
    shown, base = quality_table([row | {"difference": apart}, row | {"label": "q3_k", "difference": None}])
    assert shown["mean KLD to q3_k"] == "-0.00300 ± 0.00050, better"
    assert shown["top-1 to q3_k [%]"] == "+0.30 ± 0.10, better"
    assert shown["ln PPL to q3_k"] == "+0.00100 ± 0.00100, not told apart"
    assert base["mean KLD to q3_k"] == ""
    assert kinds_table({"rows": [row | {"difference": apart}], "margin": 0.05}) == [shown]
    row = {"label": "9mib", "test": "tg128", "depth": 4096, "t_s": 61.2, "stddev": 0.5, "threads": 8}
    (shown,) = speed_table([row | {"device": "A card", "backend": "SYCL"}])
    assert shown["tokens per second"] == "61.20 ± 0.50"
    (busy,) = speed_table([row | {"device": "A card", "backend": "SYCL", "stddev": 100}])
    assert busy["tokens per second"] == "not settled"
    assert shown["tokens in context"] == 4096
    assert shown["device"] == "A card (SYCL)"


def test_the_curve_has_what_was_measured_between_its_points():
    points = [
        {"bytes": 100, "promoted": 0, "kld_predicted": 0.05},
        {"bytes": 160, "promoted": 2, "kld_predicted": 0.02},
    ]
    saved = {"diff": 0.01, "err": 0.0004, "z": 25.0}
    measured = [{"bytes": nbytes, "kld": 0.04, "kld_err": 0.001, "saved": saved} for nbytes in (100, 130)]
    table = pd.DataFrame(curve_table({"points": points, "measured": measured}))
    assert list(table["groups promoted in order"]) == [0, "", 2]
    assert list(table["mean KLD, measured"]) == ["0.04000 ± 0.00100", "0.04000 ± 0.00100", ""]
    assert list(table["saved by promotion, measured"])[1:] == ["+0.01000 ± 0.00040", ""]


def test_timing_is_told_as_people_do():
    row = {"rule": "measure_mix", "jobs": 34, "seconds": 243.9, "longest": 9.7, "cpu_seconds": 4.0, "peak_bytes": 2**27}
    assert list(timing_table([row])[0].values()) == ["measure_mix", 34, "4 min 04 s", "9.7 s", "4.0 s", "128.00 MiB"]
