"""The arithmetic of docs/scaling.md, and that what rules ask for is enough for it."""

from pathlib import Path

import pytest
import yaml

from phase_twin.config import load
from scaling import (
    BF16_GIB,
    COMPARED,
    NANO_CHUNKS,
    TWIN_CASES,
    Step,
    disk,
    disk_table,
    rates,
    requested,
    steps,
    steps_table,
)


@pytest.fixture(scope="module")
def rules(root) -> str:
    return "".join(path.read_text() for path in sorted(Path(root, "rules").glob("*.smk")))


# nano's, on the two cores where the page was written
RATES = dict.fromkeys(NANO_CHUNKS, 1.3e10)


def test_a_rate_is_tokens_times_weights_per_second():
    timing = [{"rule": rule, "jobs": 2, "cpu_seconds": 2.0 * chunks} for rule, chunks in NANO_CHUNKS.items()]
    assert rates(timing, 1e6) == dict.fromkeys(NANO_CHUNKS, 512e6)


def test_jobs_share_nodes_and_nodes_keep_what_they_read():
    # an hour of 6.4 threads; 40 GB let three run on a node of 128 GiB
    step = Step("measure_mix", "", 12, 6.4 * 3600, 10, 0)
    assert [step.hours(nodes, 40_000) for nodes in (1, 2, 8)] == pytest.approx([4, 2, 1])
    assert [step.traffic(nodes) for nodes in (1, 8, 64)] == [10, 80, 120]


def test_a_step_that_only_copies_takes_as_long_as_the_file_system():
    assert Step("pack_twin", "", 1, 0, 60, 30).hours(8, 1000) == pytest.approx(90 / 2.5 / 3600)


def test_what_rules_ask_for_is_read_from_them(rules):
    memory, hours = requested("compute_imatrix", rules)
    assert memory == int(2000 + 1.2 * BF16_GIB * 1024)
    assert hours == (10 + 10 * BF16_GIB) / 60
    assert requested("rank_groups", rules) == (2000, 10 / 60)


@pytest.mark.parametrize("step", steps(RATES), ids=lambda step: f"{step.rule} {step.what}".strip())
def test_rules_ask_for_time_enough(rules, step):
    assert step.job_hours() < requested(step.rule, rules)[1]


def test_the_page_has_every_step(root, rules):
    page = Path(root, "docs/scaling.md").read_text()
    _, rows = steps_table(RATES, rules)
    for row in rows:
        # name, jobs, memory: what does not depend on the machine that measured
        assert f"| {' | '.join(row[:3])} |" in page


def test_the_disk_of_the_page(root):
    page = Path(root, "docs/scaling.md").read_text()
    for row in disk_table()[1]:
        assert f"| {' | '.join(row)} |" in page


def test_the_disk_stays_below_its_aim():
    assert max(sum(there.values()) for _, there in disk(lean=True)) < 2.2 * BF16_GIB


def test_the_page_is_about_the_shipped_configuration(root):
    config = load(yaml.safe_load(Path(root, "config/config.yaml").read_text()))
    assert config.disk.lean
    assert [config.study.recipes[name].gate.type for name in config.bench.compare] == list(COMPARED)
    assert config.model.bf16_gib == BF16_GIB
    assert len(config.variants) + len(config.prune_targets) == TWIN_CASES
