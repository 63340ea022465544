"""The tables of README.md and docs/: read off the engine's output, put between their marks."""

from update_tables import (
    codebooks_table,
    cost_table,
    cpu_table,
    encoder_table,
    feedback_table,
    mutants_table,
    quality_table,
    ranking_table,
    replace,
    shapes_table,
    sums_table,
    throughput_table,
)

OUTPUT = """\
relative RMSE          |      no weights, 1536 blocks      |   exhaustive search, 48 blocks
                       |  plain   search |  prototype      | none: best   here | imatrix: best   here
Gaussian               | 0.1743   0.1570 | 0.1736   0.1571 | 0.15755  0.15757 | 0.12789  0.12790
error of the search                                                      ok

one thread, with weights |    MB/s of F32 |    bpw | relative RMSE: none   imatrix
q3_K                     |          110.3 | 3.4375 |              0.1508    0.1292
q4_K                     |           20.0 | 4.5000 |              0.0708    0.0618
iq3_a770                 |           50.0 | 3.1875 |              0.1566    0.1389

relative RMSE, with weights: 4 experts of each shape and distribution, 25165824 weights in all
columns x rows |    bpw | 2048 x 512: Gaussian Laplace t5 | 512 x 2048: Gaussian Laplace t5 |
iq3_a770       | 3.1875 | 0.1382 0.1602 0.1628 | 0.1379 0.1608 0.1617 |
q3_K           | 3.4375 | 0.1289 0.1531 0.1533 | 0.1287 0.1536 0.1524 |
"""


def test_encoder_rows():
    (row,) = encoder_table(OUTPUT).splitlines()[2:]
    assert row == "| Gaussian | 0.1743 | 0.1570 | 0.1736 | 0.1571 | 0.15755 | 0.15757 | 0.12789 | 0.12790 |"


def test_speeds_are_beside_q4_k():
    rows = throughput_table(OUTPUT).splitlines()[2:]
    assert len(rows) == 3
    assert rows[0].startswith("| Q3_K | 3.4375 | 110.3 | 5.5 x |")
    assert rows[2] == "| IQ3_A770 | 3.1875 | 50.0 | 2.5 x | 0.1566 | 0.1389 |"


def test_errors_on_full_shapes():
    head, _, first, second = shapes_table(OUTPUT).splitlines()
    assert head.startswith("| type | bits per weight | 2048 x 512: Gaussian |")
    assert head.endswith("| 512 x 2048: t5 |")
    assert first == "| IQ3_A770 | 3.1875 | 0.1382 | 0.1602 | 0.1628 | 0.1379 | 0.1608 | 0.1617 |"
    assert second.startswith("| Q3_K | 3.4375 | 0.1289 |")


def test_speed_of_error_feedback():
    output = "feedback,  256 columns   |            5.9 | 0.000\nfeedback, 2048 columns   |            2.6 | 0.243\n"
    assert feedback_table(output).splitlines()[2:] == ["| 256 | 5.9 | 0.000 |", "| 2048 | 2.6 | 0.243 |"]


def test_codebooks_are_beside_version_1():
    row = {
        "table": [-125, 127],
        "kld_mean": 0.042,
        "kld_mean_run_err": 0.0003,
        "kld_p999": 0.7,
        "kld_p999_run_err": 0.02,
    }
    row |= {"top1": 89.5, "top1_run_err": 0.05, "ppl_ratio": 1.03, "ppl_ratio_run_err": 0.001}
    apart = {"to": "version-1", "kld_mean": {"diff": 0.0001, "err": 0.0003, "z": 0.3}}
    rows = [row | {"codebook": "version-1", "rmse": 0.2, "difference": None}]
    rows.append(row | {"codebook": "other", "rmse": 0.19, "difference": apart})
    first, second = codebooks_table(rows).splitlines()[2:]
    assert first.startswith("| version-1 | -125, 127 | 0.2000 | +0.0 % | 0.04200 ± 0.00030 |  | 0.700 ± 0.020 |")
    assert "| +0.00010 ± 0.00030, not told apart |" in second
    assert first.endswith("| 89.50 ± 0.05 % | 1.0300 ± 0.0010 |")
    assert second.startswith("| other | -125, 127 | 0.1900 | -5.0 % |")


def test_rows_stand_beside_a_named_one():
    row = {"bytes": 2**23, "bpw_experts": 3.1875, "kld_mean": 0.038, "kld_mean_err": 0.0017, "kld_p999": 0.7}
    row |= {"top1": 90.6, "top1_err": 0.4, "ppl_ratio": 1.02, "ppl_ratio_err": 0.002}
    apart = {"to": "q3_k", "kld_mean": {"diff": 0.00057, "err": 0.00054, "z": 1.06}}
    rows = [row | {"label": "variant-0", "difference": apart}, row | {"label": "q3_k", "difference": None}]
    head, _, first, second = quality_table(rows).splitlines()
    assert head.startswith("|  | weights | expert bits | mean KLD | KLD to q3_k |")
    assert first.startswith(
        "| variant-0 | 8.00 MiB | 3.19 | 0.0380 ± 0.0017 | +0.0006 ± 0.0005, not told apart | 0.700 |"
    )
    assert second.startswith("| q3_k | 8.00 MiB | 3.19 | 0.0380 ± 0.0017 |  | 0.700 |")
    alone = quality_table(rows[1:]).splitlines()
    assert alone[0].count("|") == alone[2].count("|") == 8


def test_orders_stand_beside_that_of_the_twin():
    row = {"percent": 10, "closed": 17.4, "closed_err": 1.2}
    apart = {"to": "measured", "area": {"diff": 0.004, "err": 0.0004, "z": 10.0}}
    orders = [{"order": "random", "area": 0.026, "area_err": 0.001, "difference": apart, "rows": [row]}]
    orders.append({"order": "measured", "area": 0.022, "area_err": 0.001, "difference": None, "rows": [row]})
    head, _, first, second = ranking_table({"orders": orders}).splitlines()
    assert head == "| order | mean KLD over all budgets | to measured | +10 % |"
    assert first == "| measured | 0.0220 ± 0.0010 |  | 17 ± 1 % |"
    assert second == "| random | 0.0260 ± 0.0010 | +0.0040 ± 0.0004, worse | 17 ± 1 % |"


def test_sums_are_told_in_percent():
    found = {"alone": {"share": 0.926, "err": 0.096}, "last": {"share": 1.093, "err": 0.083}}
    found["difference"] = {"diff": -0.167, "err": 0.15, "z": -1.1}
    assert sums_table({"sums": found}).splitlines()[2] == "| 93 ± 10 % | 109 ± 8 % | -17 ± 15 % |"


def test_where_a_mutant_is_caught():
    rows = [{"mutant": "wrong sign", "file": "moe.cpp", "caught_by": {"kernels": "a", "off": "b"}}]
    rows += [{"mutant": "nothing", "file": "moe.cpp", "caught_by": {"kernels": "", "off": ""}}]
    head, _, *lines = mutants_table(rows).splitlines()
    assert head == "| planted fault | file | kernels | off |"
    assert lines == ["| wrong sign | moe.cpp | a | b |", "| nothing | moe.cpp | missed | - |"]


def test_where_a_mutant_is_caught_first():
    rows = [{"mutant": "nothing", "file": "moe.cpp", "caught_by": {"kernels": "", "off": ""}}]
    rows += [{"mutant": "wrong sign", "file": "moe.cpp", "caught_by": {"kernels": "a"}}]
    _, _, *lines = mutants_table(rows).splitlines()
    assert lines == ["| nothing | moe.cpp | missed | - |", "| wrong sign | moe.cpp | a | not tried |"]


def test_cost_of_a_token():
    calls = {"kernels": 1234, "copies": 5, "waits": 6}
    row = {"experts": "Q4_K", "path": "live", "per_token": calls, "weight_bytes": 2_500_000_000}
    row |= {"int8_operations": 3_000_000_000, "expected_tokens_per_second": {"card": 81.6}}
    prompt = {"as in llama.cpp": 1600, "grouped": 42}
    report = {"bandwidth_gb_s": {"card": 560.0}, "rows": [row], "kernels_per_layer_of_a_prompt": prompt}
    head, _, line, _, told = cost_table(report).splitlines()
    assert head.endswith("| tokens/s expected, card (560 GB/s) |")
    assert line == "| Q4_K | live | 1,234 | 5 | 6 | 2.50 | 3.00 | 82 |"
    assert told.endswith("experts IQ3_A770: as in llama.cpp 1,600, grouped 42.")


CPU = {
    "models": "pure",
    "device": "AMD EPYC",
    "threads": 2,
    "spread_limit": 0.03,
    "settled": True,
    "rounds_measured": 9,
    "rounds_used": 7,
    "read_gb_s": 31.4159,
    "types": [
        {"type": "Q4_K", "dot": 2.2345, "pp512": 123.45, "tg64": 67.89, "token_bytes": 201_500_000, "gb_s": 13.68}
        | {"of_bandwidth": 0.4354, "buffers_mib": {"CPU_Mapped": 125.27, "CPU_REPACK": 1728.0}}
        | {"spread": {"dot": 0.01, "pp512": 0.02, "tg64": 0.1}}
    ],
    "ratios": [
        {
            "type": "IQ3_A770",
            "test": "tg64",
            "base": "Q4_K",
            "ratio": 1.0512,
            "spread": 0.0123,
            "least": 1.1,
            "stretch": None,
        }
        | {"bytes_allow": 1.0987},
    ],
}


def test_speed_on_the_cpu_beside_what_was_asked():
    told, types, ratios, picture = cpu_table(CPU).split("\n\n")
    assert told.startswith("AMD EPYC, 2 threads; read bandwidth 31.4 GB/s; in the last 7 of 9 rounds no ratio")
    assert types.splitlines()[2] == "| Q4_K | 2.23 | 123.5 | 67.9 | 202 | 13.7 | 44 % | 1728 |"
    assert picture.endswith("(iq3_a770-cpu-pure.svg)")
    assert ratios.splitlines()[2] == "| IQ3_A770 | tg64 / Q4_K | 1.05 x | 1.2 % | 1.10 x |  | 1.10 x |"


def test_what_spreads_by_more_than_a_tenth_is_no_figure():
    (kind,), (ratio,) = CPU["types"], CPU["ratios"]
    busy = {
        "types": [kind | {"spread": {"dot": 0.01, "pp512": 0.2, "tg64": 0.11}}],
        "ratios": [ratio | {"spread": 0.2}],
    }
    _, types, ratios, _ = cpu_table(CPU | busy).split("\n\n")
    assert (
        types.splitlines()[2] == "| Q4_K | 2.23 | not settled | not settled | 202 | not settled | not settled | 1728 |"
    )
    assert ratios.splitlines()[2] == "| IQ3_A770 | tg64 / Q4_K | not settled | 20.0 % | 1.10 x |  | 1.10 x |"


def test_what_was_not_measured_has_an_empty_cell():
    (kind,) = CPU["types"]
    apart = {name: value for name, value in kind.items() if name != "dot"} | {"spread": {"pp512": 0.02, "tg64": 0.01}}
    types = cpu_table(CPU | {"types": [apart]}).split("\n\n")[1]
    assert types.splitlines()[2] == "| Q4_K |  | 123.5 | 67.9 | 202 | 13.7 | 44 % | 1728 |"


def test_a_machine_that_was_never_calm_is_told():
    assert "did not come to rest" in cpu_table(CPU | {"settled": False})


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study -->\nold\n<!-- end study -->\nafter <!-- encoder -->\n")
    for _ in range(2):
        replace(page, "study", "new")
        expected = "before\n<!-- study -->\n\nnew\n\n<!-- end study -->\nafter <!-- encoder -->\n"
        assert page.read_text() == expected
