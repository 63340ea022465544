"""The report of the nano run: complete, and readable without a network."""

import json
import re

import pandas as pd
import pytest

import draw_sensitivity
import draw_speed
import gather_curve
import gather_quality
import gather_timing
from phase_twin.results import read_result
from plot_texts import check_texts

pytestmark = pytest.mark.nano

PICTURES = {
    "bench/quality.svg": "KLD against bytes",
    "curve.svg": "What each further byte buys",
    "report/sensitivity.svg": "Sensitivity of layers",
    "report/speed.svg": "Speed",
    "report/timing.svg": "Time and memory of the rules",
}
TABLES = ("quality", "speed", "curve", "timing")


def variable(page: str, name: str) -> dict:
    """What the page's script gives a variable."""
    return json.JSONDecoder().raw_decode(page, page.index(f"var {name} = {{") + len(f"var {name} = "))[0]


def test_the_report_holds_every_picture_and_table(nano_report):
    page = nano_report.read_text()
    results = {path.partition("nex-n2-nano/")[2]: entry for path, entry in variable(page, "results").items()}
    assert set(results) == {*PICTURES, *(f"report/{name}.html" for name in TABLES)}
    assert set(variable(page, "categories")) == {"Pictures", "Tables"}
    for path, label in PICTURES.items():
        assert results[path]["labels"] == {"picture": label}
        # and all of them on the first page
        assert f'alt=\\"{label}\\"' in page
    for entry in results.values():
        assert "Nex-N2-nano" in entry["caption"]
        assert "{" not in entry["caption"]
        assert len(re.findall(r"\.(?:\s|<)", entry["caption"])) <= 2
    caption = results["bench/quality.svg"]["caption"].replace("\n", " ")
    assert "so many tokens of evaluation.txt as the title says" in caption


def test_the_report_needs_no_network(nano_report):
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']([^\"']+)", nano_report.read_text())
    assert [target[:40] for target in tags if not target.startswith("data:")] == []


def test_no_text_of_a_picture_is_on_another_one(nano):
    quality, speed = (pd.DataFrame(read_result(nano / f"bench/{name}.json")) for name in ("quality", "speed"))
    ours = ["variant-0", "variant-1", "9mib", "10mib"]
    timing = pd.DataFrame(read_result(nano / "report/timing.json"))
    curve, order = read_result(nano / "curve.json"), read_result(nano / "rank/measured.json")
    for figure in (
        gather_quality.draw(quality, "Nex-N2-nano: KLD against BF16, 100 x 512 tokens", ours, True),
        gather_curve.draw(curve, "Nex-N2-nano: what each further byte buys"),
        draw_sensitivity.draw(order, "Nex-N2-nano: what promoting each group is worth"),
        draw_speed.draw(speed, f"Nex-N2-nano on {speed.device[0]} (CPU), 2 threads", ours),
        gather_timing.draw(timing, "Nex-N2-nano: 10 min 00 s of jobs"),
    ):
        check_texts(figure)


def test_timing_has_every_rule_that_ran(nano):
    rows = {row["rule"]: row for row in read_result(nano / "report/timing.json")}
    assert {"build_engine", "test_engine", "quantize_recipe", "measure_speed", "make_release"} <= set(rows)
    # nothing, everything, and each of 16 units alone and left out
    assert rows["measure_mix"]["jobs"] == 34
    assert rows["measure_quality"]["seconds"] > rows["measure_quality"]["longest"] > 0
    assert rows["measure_quality"]["peak_bytes"] > 2**20
