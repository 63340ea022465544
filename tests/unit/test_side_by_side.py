"""The bench of the CPU: ratios and their spread, when it goes on, what programs print, bytes of a token."""

import subprocess
from types import SimpleNamespace

import pytest

import measure_cpu
from gguf_files import F32, IQ3_A770, IQ3_KEYS, PLAIN, Q6_K, Raw, write
from phase_twin.active_weights import of_one_token
from phase_twin.errors import UserError
from phase_twin.results import read_result
from phase_twin.side_by_side import (
    DECODE,
    DOT,
    IN_PLACE,
    KINDS,
    PROMPT,
    STOCK,
    Round,
    missed,
    parse_bandwidth,
    parse_buffers,
    parse_cycles,
    ratio_rows,
    speed_rows,
    spread,
    turn,
    unsettled,
)
from prune_dual import Gguf

OURS, REFINED = "IQ3_A770", "IQ4_A770"
BYTES = dict.fromkeys(KINDS, 2_000_000_000)


def one_round(ours: float = 30.0, gb_s: float = 100.0) -> Round:
    """All stock types at 10 tokens per second and 3 cycles, ours at `ours` and 2, the refined ones at 12 and 4."""
    speeds = dict.fromkeys(STOCK, 10.0) | {OURS: ours, REFINED: 12.0, IN_PLACE: 8.0}
    cycles = dict.fromkeys(STOCK, 3.0) | {OURS: 2.0, REFINED: 4.0}
    return Round(gb_s, {DOT: cycles, PROMPT: speeds, DECODE: speeds})


def test_ratios_are_larger_where_ours_is_faster():
    assert one_round().ratio(DOT, OURS, "Q3_K") == 1.5
    assert one_round().ratio(DECODE, OURS, "Q3_K") == 3.0
    assert one_round().ratio(DOT, REFINED, "Q4_K") == 0.75
    assert one_round().ratio(DECODE, REFINED, "Q4_K") == 1.2


def test_spread_is_that_of_the_middle_half():
    assert spread([1.0, 2.0, 2.0, 2.0, 50.0]) == 0
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.1)


def test_what_spreads_too_much_is_named():
    calm = [one_round(30), one_round(30.1), one_round(29.9)]
    assert unsettled(calm, 0.03) == []
    rough = unsettled([*calm, one_round(20), one_round(45)], 0.001)
    assert len(rough) == 7
    assert {tuple(name.split()[:2]) for name in rough} == {(OURS, DECODE), (OURS, PROMPT)}


def test_each_type_is_first_in_turn():
    assert [turn("abc", number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(turn("abc", 2)) == ["a", "b", "c"]


def test_share_of_the_bandwidth_is_taken_within_rounds():
    # a slow machine halves both
    row, *_ = speed_rows([one_round(30), one_round(15, 50), one_round(30)], BYTES)
    assert (row["type"], row[DECODE], row["gb_s"]) == (OURS, 30, 60)
    assert row["of_bandwidth"] == pytest.approx(0.6)


def test_ratios_stand_beside_what_was_asked():
    rows = ratio_rows([one_round(14.0), one_round(14.5), one_round(14.2)], BYTES | {"Q4_K": 3_000_000_000})
    found = {(row["type"], row["test"], row["base"]): row for row in rows}
    assert len(found) == 3 * len(STOCK) + 3 * 2 + 2 * 2
    q4_k = found[OURS, DECODE, "Q4_K"]
    assert (q4_k["ratio"], q4_k["least"], q4_k["bytes_allow"]) == (pytest.approx(1.42), 1.1, 1.5)
    assert found[OURS, PROMPT, "IQ4_XS"]["least"] is None
    refined = found[REFINED, DECODE, "Q4_K"]
    assert (refined["ratio"], refined["least"], refined["stretch"]) == (pytest.approx(1.2), 1.0, 1.15)
    assert found[IN_PLACE, PROMPT, "IQ4_XS"]["least"] is None
    assert found[IN_PLACE, PROMPT, "Q4_K"]["least"] == 1.0
    assert [text.split(",")[0] for text in missed(rows)] == [
        "IQ3_A770 tg64 / IQ3_XXS 1.42",
        "IQ3_A770 tg64 / IQ3_S 1.42",
        "IQ4_A770-nested tg64 / Q4_K 0.80",
        "IQ3_A770 pp512 / Q3_K 1.42",
        "IQ3_A770 pp512 / IQ3_S 1.42",
        "IQ4_A770-nested pp512 / Q4_K 0.80",
    ]


def test_planes_apart_have_no_dot_product():
    rows = {row["type"]: row for row in speed_rows([one_round()] * 2, BYTES)}
    assert [kind for kind, row in rows.items() if DOT not in row] == [IN_PLACE]
    assert rows[IN_PLACE][DECODE] == 8
    assert {row["test"] for row in ratio_rows([one_round()] * 2, BYTES) if row["type"] == IN_PLACE} == {DECODE, PROMPT}


def test_only_planes_are_left_where_they_lie(tmp_path, monkeypatch):
    asked = SimpleNamespace(
        input=SimpleNamespace(models=KINDS, bench="llama-bench"),
        log=SimpleNamespace(tool=tmp_path / "tool.log"),
        threads=2,
    )
    bench = measure_cpu.Bench(asked)
    monkeypatch.setattr(bench, "run", lambda *command: command)
    repacked = {kind: bench.bench(kind, 0, 1) for kind in KINDS}
    assert [kind for kind, call in repacked.items() if call[call.index("--repack") + 1] == "0"] == [IN_PLACE]


def test_cycles_are_read():
    assert (
        parse_cycles("q3_K\n      min cycles/32 vals   :      2.95\n      avg cycles/32 vals   :      3.05\n") == 2.95
    )


@pytest.mark.parametrize("output", ["", "      min cycles/32 vals   :      0.00\n"])
def test_no_cycles_are_told(output):
    with pytest.raises(UserError, match="x86 only"):
        parse_cycles(output)


def test_bandwidth_is_the_best_pass():
    assert parse_bandwidth("12.5 GB/s\n14.25 GB/s\n9.0 GB/s\n") == 14.25


def test_bandwidth_is_measured_and_sums_are_right(root, tmp_path):
    program = tmp_path / "stream_read"
    flags = ["-O3", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, root / "scripts/stream_read.c", "-o", program], check=True)
    # exits 1 where a sum is wrong
    done = subprocess.run([program, "3", "8", "2"], check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 2
    assert parse_bandwidth(done.stdout) > 0
    refused = subprocess.run([program, "0", "8", "2"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, "usage: stream_read THREADS MIB PASSES\n")


def test_repacked_weights_are_seen():
    told = "load_tensors:   {} model buffer size =  {} MiB\n".format
    assert parse_buffers(told("CPU_REPACK", "1728.00") + told("CPU_Mapped", "125.27")) == {
        "CPU_REPACK": 1728.0,
        "CPU_Mapped": 125.27,
    }


def test_a_token_reads_the_experts_it_is_sent_to(tmp_path):
    keys = [*PLAIN, *IQ3_KEYS, ("qwen35moe.expert_count", "u32", 16), ("qwen35moe.expert_used_count", "u32", 4)]
    tensors = [
        Raw("token_embd.weight", (256, 8), F32),
        Raw("blk.0.ffn_up_exps.weight", (256, 2, 16), IQ3_A770),
        Raw("blk.0.ffn_up_shexp.weight", (256, 2), Q6_K),
        Raw("output_norm.weight", (256,), F32),
    ]
    model = Gguf.read(write(tmp_path / "model.gguf", keys, tensors))
    assert of_one_token(model, lambda tensor: tensor.nbytes) == 4 * 2 * 102 + 2 * 210 + 1024


@pytest.fixture
def rule(tmp_path, monkeypatch):
    """The rule with programs that are not run: rounds come from a list, of which each test makes its own."""
    monkeypatch.setattr(measure_cpu.Bench, "buffers", lambda bench, kind: {"CPU_Mapped": 1.0})
    monkeypatch.setattr(measure_cpu.Bench, "round", lambda bench, number: bench.programs.rounds[number])
    monkeypatch.setattr(measure_cpu.Gguf, "read", lambda path: path)
    monkeypatch.setattr(measure_cpu, "of_one_token", lambda model, size: 1000)
    monkeypatch.setattr("phase_twin.results.made_by", lambda snakemake: {})

    def run(rounds: list[Round]) -> dict:
        report = tmp_path / "speed.json"
        measure_cpu.main(
            SimpleNamespace(
                input=SimpleNamespace(rounds=rounds, models=KINDS),
                output=SimpleNamespace(report=report),
                log=SimpleNamespace(tool=tmp_path / "tool.log"),
                params=SimpleNamespace(rounds=3, max_rounds=6, spread=0.03),
                wildcards=SimpleNamespace(form="pure"),
                threads=2,
            )
        )
        return read_result(report)

    return run


def test_it_measures_until_the_machine_is_calm(rule):
    report = rule([one_round(ours) for ours in (10, 50, 30, 30, 30, 99)])
    assert (report["settled"], report["rounds_measured"], report["rounds_used"]) == (True, 5, 3)
    assert len(report["samples"]) == 5
    assert {row["ratio"] for row in report["ratios"] if (row["type"], row["test"]) == (OURS, DECODE)} == {3.0}


def test_it_ends_and_says_so_where_the_machine_is_never_calm(rule):
    report = rule([one_round(ours) for ours in (10, 50, 30, 60, 30, 99)])
    assert (report["settled"], report["rounds_measured"], report["rounds_used"]) == (False, 6, 6)
