"""bench_arc: what programs print is read, failures are kept and do not stop the rest, nobody is named."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import measure_arc
from gguf_files import IQ3_A770, Q4_K, small_twin
from phase_twin import arc
from phase_twin.errors import UserError
from phase_twin.machine import cards

DEVICES = """\
Available devices:
  SYCL0: Intel(R) Arc(TM) A770 Graphics (15473 MiB, 15473 MiB free)
  SYCL1: Intel(R) UHD Graphics 770 (28000 MiB, 27000 MiB free)
"""
MOE_FFN = """\
Testing 2 devices

Backend 1/2: SYCL0
  Device description: Intel(R) Arc(TM) A770 Graphics
  Device memory: 15473 MB (15473 MB free)

  MOE_FFN(type_gate_up=iq3_a770,type_down=iq3_a770,n_tokens=1,again=0): \033[1;32mOK\033[0m
  MOE_FFN(type_gate_up=iq3_a770,type_down=q4_K,n_tokens=1,again=0): not supported [SYCL0]
[MOE_FFN] ERR = 0.121000000 > 0.001000000   MOE_FFN(type_gate_up=q4_K,n_tokens=9,again=1): \033[1;31mFAIL\033[0m
"""
ENDED = """\
  1/2 tests passed

Failing tests:
  MOE_FFN(type_gate_up=q4_K,n_tokens=9,again=1)
  Backend SYCL0: FAIL
Backend 2/2: CPU
  Skipping
"""
STATS = """\
sycl-stats: fused_experts-down           iq3_a770         72 calls       11280384 bytes
sycl-stats: fused_experts-up             iq3_a770         72 calls       22560768 bytes
sycl-stats: fused_mat-vecs               q6_K            144 calls       33840384 bytes
sycl-stats: moe_gate_up_swiglu_grouped   iq3_a770          8 calls       22560768 bytes
sycl-stats: moe_mul_mat_grouped          iq3_a770          8 calls       11280384 bytes
sycl-stats: moe_weighted_sum             f32               8 calls              0 bytes
sycl-stats: reorder                      iq3_a770         24 calls       90243072 bytes
"""


def test_devices_are_read():
    first, second = arc.parse_devices(DEVICES)
    assert first == {"name": "SYCL0", "description": "Intel(R) Arc(TM) A770 Graphics", "mib": 15473, "free_mib": 15473}
    assert second["name"] == "SYCL1"
    assert arc.parse_devices("Available devices:\n  (none)\n") == []


def test_cases_are_counted_and_failing_ones_named():
    found = arc.parse_operations(MOE_FFN + ENDED)
    assert (found["passed"], found["total"], found["not_supported"], found["complete"]) == (1, 2, 1, True)
    case = "MOE_FFN(type_gate_up=q4_K,n_tokens=9,again=1)"
    assert found["failing"] == [f"{case}: [MOE_FFN] ERR = 0.121000000 > 0.001000000"]
    with pytest.raises(arc.PartError, match="1 of 2 cases passed") as caught:
        arc.check_operations(found)
    assert caught.value.found is found


def test_a_run_that_ended_early_names_the_last_case():
    found = arc.parse_operations(MOE_FFN.rpartition("[MOE_FFN]")[0] + "Segmentation fault\n")
    assert not found["complete"]
    with pytest.raises(arc.PartError, match=r"ended early, after MOE_FFN\(.*type_down=q4_K"):
        arc.check_operations(found)


def test_a_filter_that_matches_nothing_is_no_success():
    with pytest.raises(arc.PartError, match="0 of 0"):
        arc.check_operations(arc.parse_operations("  0/0 tests passed\n  Backend SYCL0: OK\n"))


def test_kernels_prove_which_path_ran():
    counts = arc.parse_stats("warning\n" + STATS)
    assert counts["fused_experts-up"] == {"iq3_a770": 72}
    arc.check_kernels("live", counts)
    with pytest.raises(arc.PartError, match="used, though switched off: moe_gate_up_swiglu_grouped, moe_mul_mat"):
        arc.check_kernels("dormant", counts)
    dormant = arc.parse_stats("sycl-stats: mul_mat_vec_q_id iq3_a770 216 calls 5 bytes\n")
    arc.check_kernels("dormant", dormant)
    with pytest.raises(arc.PartError, match="not used: moe_gate_up_swiglu_grouped"):
        arc.check_kernels("live", dormant)


def test_speed_is_compared_per_phase_and_test():
    samples = {(0, "live", "tg128"): [80.0, 84.0], (0, "dormant", "tg128"): [40.0, 44.0], (1, "live", "tg128"): [60.0]}
    rows = arc.speed_rows(samples)
    assert [(row["phase"], row["mode"], row["t_s"], row["stddev"]) for row in rows] == [
        (0, "live", 82.0, 2.828),
        (0, "dormant", 42.0, 2.828),
        (1, "live", 60.0, None),
    ]
    assert arc.speed_ratios(samples) == [{"phase": 0, "test": "tg128", "ratio": 1.9524, "stddev": 0.0643}]
    assert [arc.order_of_round(number)[0] for number in range(3)] == ["live", "dormant", "live"]


def test_card_and_cpu_must_agree():
    arc.check_quality({"kld_mean": 0.001})
    for kld in (0.5, float("nan")):
        with pytest.raises(arc.PartError, match="mean KLD against the CPU is"):
            arc.check_quality({"kld_mean": kld})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run /home/jdoe/twin/llama-bench", "run ./llama-bench"),
        ("in /home/jdoe/other", "in ~/other"),
        ("in /home/jdoetwin/x.gguf", "in (path)/x.gguf"),
        ("/data/models/of jane/x.gguf", "(path) jane/x.gguf"),
        ("at (/mnt/disk/jdoe)", "at ((path))"),
        ("open('/scratch/a/b.gguf'): no", "open('(path)/b.gguf'): no"),
        ("/opt/intel/oneapi/compiler/2026.2/lib/libsycl.so.9", "/opt/intel/oneapi/compiler/2026.2/lib/libsycl.so.9"),
        ("/dev/dri/renderD128", "/dev/dri/renderD128"),
        ("jdoe@tower: jdoes", "(user)@(host): jdoes"),
        ("token hf_AbCdEfGhIjKl", "token (token)"),
        ("PPL(Q)/PPL(base) 12 t/s, 1/2 a / b", "PPL(Q)/PPL(base) 12 t/s, 1/2 a / b"),
        ("Intel(R) Arc(TM) A770", "Intel(R) Arc(TM) A770"),
    ],
)
def test_nobody_is_named(text, expected):
    paths = {"/home/jdoe": "~", "/home/jdoe/twin": "."}
    names = {"jdoe": "(user)", "tower": "(host)", "intel": "(host)"}
    assert arc.scrub({"a": [text, 1, None]}, paths, names) == {"a": [expected, 1, None]}


def test_a_home_that_is_the_root_is_no_prefix():
    assert arc.scrub("/usr/bin/env", {"/": "~"}, {"root": "(user)"}) == "/usr/bin/env"


def test_cards_and_their_drivers(tmp_path):
    device = tmp_path / "devices/0000:03:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0x56a0\n")
    (device / "driver").symlink_to("../../bus/pci/drivers/xe")
    for name in ("card1", "card1-DP-1"):
        (tmp_path / "drm" / name).mkdir(parents=True)
        (tmp_path / "drm" / name / "device").symlink_to(device)
    assert cards(tmp_path / "drm") == [{"pci_id": "8086:56a0", "driver": "xe"}]
    assert cards(tmp_path / "none") == []


# ---------------------------------------------------------------- the whole, with programs that only print

BENCH = """\
if [[ $* == *--list-devices* ]]; then printf '%s\\n' "$DEVICES"; exit; fi
echo "$GGML_SYCL_MOE_REORDER$GGML_SYCL_MOE_FUSE $*" >>"$CALLS"
[[ $* == *"$BREAK"* ]] && { echo "$HOME/model: UR_RESULT_ERROR_DEVICE_LOST"; exit 3; }
live=$((GGML_SYCL_MOE_REORDER * 40 + 40))
cpu='"n_depth": 0, "n_threads": 2, "cpu_info": "", "gpu_info": "A770", "backends": "SYCL"'
echo "{\\"n_prompt\\": 512, \\"n_gen\\": 0, \\"avg_ts\\": 600, $cpu}"
echo "a message"
echo "{\\"n_prompt\\": 0, \\"n_gen\\": 128, \\"avg_ts\\": $live, $cpu}"
if [[ ${GGML_SYCL_STATS:-0} == 1 && $live == 80 ]]; then printf '%s\\n' "$STATS"; fi
"""
OPS = """\
[[ $5 == GET_ROWS && $GGML_SYCL_MOE_FUSE == 0 && -n $CRASH ]] && { echo '  GET_ROWS(type=q4_K): OK'; kill -SEGV $$; }
echo '| 0|     [level_zero:gpu:0]|  Intel Arc A770 Graphics|   12.55|    512|    1024|   32| 16225M|  1.6.33578+10|'
echo '  7/7 tests passed'
"""
PERPLEXITY = """\
echo "$GGML_SYCL_MOE_REORDER $*" >>"$CALLS"
while (($# > 1)); do [[ $1 == --kl-divergence-base && $* != *SYCL0* ]] && echo logits >"$2"; shift; done
printf '%s\\n' "$SUMMARY"
"""
SUMMARY = """\
0.1 I prepare_model_devices: using device SYCL0 (Intel(R) Arc(TM) A770 Graphics) (0000:03:00.0) - 15473 MiB free
0.00.2 I system_info: n_threads = 2 (n_threads_batch = 2) / 8 | CPU : AVX = 1 |
0.00.3 I kl_divergence: computing over 2 chunks, n_ctx=512, batch_size=2048, n_seq=4
Mean PPL(Q)/PPL(base)         :   0.998787 ±   0.001209
Mean    KLD:   0.000728 ±   0.000118
99.9%   KLD:   0.049922
Median  KLD:   0.000185
Same top p: 98.922 ± 0.324 %
"""


class Values(dict):
    """Values by key and by attribute, as Snakemake hands them over."""

    __getattr__ = dict.__getitem__


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The rule's call; its programs only print."""
    bin_ = tmp_path / "home/jdoe/bin"
    bin_.mkdir(parents=True)
    for name, body in {"bench": BENCH, "test": OPS, "card": PERPLEXITY, "cpu": PERPLEXITY}.items():
        (bin_ / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (bin_ / name).chmod(0o755)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "sycl-ls").write_text("#!/usr/bin/env bash\necho '[level_zero:gpu][level_zero:0] Intel(R) Arc(TM) A770'\n")
    (fakes / "sycl-ls").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home/jdoe"))
    monkeypatch.setenv("LOGNAME", "jdoe")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setenv("ONEAPI_DEVICE_SELECTOR", "level_zero:0")
    for name, value in {
        "DEVICES": DEVICES,
        "STATS": STATS,
        "SUMMARY": SUMMARY,
        "BREAK": "nothing",
        "CRASH": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    facts = dict.fromkeys(("tag", "commit", "patch_sha256", "compiler"), "x") | {"backend": "sycl", "flags": ["-D"]}
    (tmp_path / "engine.json").write_text(json.dumps(facts))
    names = {name: str(bin_ / name) for name in ("bench", "test", "card", "cpu")}
    twin = small_twin(tmp_path / "home/jdoe/some-twin.gguf", IQ3_A770, Q4_K)
    return SimpleNamespace(
        input=Values(names, facts=tmp_path / "engine.json", twin=twin, corpus="text.txt"),
        output=SimpleNamespace(summary=tmp_path / "arc/summary.md"),
        log=SimpleNamespace(report=str(tmp_path / "arc/report.json"), tool=str(tmp_path / "tool.log")),
        params=Values(title="Some-Model", version="1", n_ctx=512, chunks=2, n_prompt=512, n_gen=128, repetitions=2),
        threads=2,
    )


def report_of(card) -> tuple[dict, dict[str, dict]]:
    report = json.loads(Path(card.log.report).read_text())
    return report, {part["part"]: part for part in report["parts"]}


def test_a_good_card(card, tmp_path):
    measure_arc.main(card)
    report, parts = report_of(card)
    assert {part["status"] for name, part in parts.items() if name != "clinfo"} == {"passed"}
    assert report["device"] == "Intel(R) Arc(TM) A770 Graphics"
    assert parts["sycl-ls"]["lines"] == ["[level_zero:gpu][level_zero:0] Intel(R) Arc(TM) A770"]
    assert "1.6.33578+10" in parts["backend"]["lines"][0]
    assert parts["MOE_FFN, unfused"]["passed"] == 7
    assert len([name for name in parts if name.endswith((", live", ", unfused", ", dormant"))]) == 12 + 4
    assert parts["MUL_MAT, without ESIMD"]["passed"] == 7
    assert [row["ratio"] for row in report["ratios"]] == [1.0, 2.0, 1.0, 2.0]
    assert parts["kernels, phase 1, live"]["kernels"]["fused_experts-up"] == {"iq3_a770": 72}
    compared = parts["card against CPU, phase 1, decode"]
    assert (compared["kld_mean"], compared["chunks"], compared["threads"]) == (0.000728, 2, 2)
    assert compared["device"] == "SYCL0 (Intel(R) Arc(TM) A770 Graphics)"
    assert parts["logits of the CPU, phase 1"]["chunks"] == 2
    assert parts["speed, phase 1, live, round 1"]["device"] == "A770"
    assert report["machine"]["settings"]["ONEAPI_DEVICE_SELECTOR"] == "level_zero:0"
    calls = (tmp_path / "calls").read_text().splitlines()
    rounds = [call.split()[0] for call in calls if " -p 512 " in call]
    assert rounds == ["11", "00"] * 2 + ["00", "11"] * 2  # two phases, two rounds
    assert all("-dev SYCL0" in call for call in calls if "--kl-divergence " in call or " -p " in call)
    assert sum("-b 1 -ub 1" in call for call in calls) == 2
    assert "phase 0, tg128: live is 2.000 x dormant" in card.output.summary.read_text()
    assert sorted(os.listdir(tmp_path / "arc")) == ["report.json", "summary.md"]


def test_failures_are_recorded_and_the_rest_goes_on(card, monkeypatch):
    monkeypatch.setenv("BREAK", "default=int:1")
    monkeypatch.setenv("CRASH", "1")
    with pytest.raises(UserError, match=r"6 of \d+ parts failed; .*report\.json says how: send it back"):
        measure_arc.main(card)
    report, parts = report_of(card)
    failed = [name for name, part in parts.items() if part["status"] == "failed"]
    assert failed == [
        "GET_ROWS, unfused",
        "GET_ROWS, dormant",
        "kernels, phase 1, live",
        "kernels, phase 1, dormant",
        "speed, phase 1, live, round 1",
        "speed, phase 1, dormant, round 1",
    ]
    assert parts["GET_ROWS, dormant"]["error"] == "ended early, after GET_ROWS(type=q4_K)"
    assert "killed by signal 11" in parts["GET_ROWS, dormant"]["output"][0]
    assert "UR_RESULT_ERROR_DEVICE_LOST" in parts["kernels, phase 1, live"]["error"]
    assert {row["phase"] for row in report["speed"]} == {0}
    assert parts["card against CPU, phase 1, prompt"]["status"] == "passed"
    assert not card.output.summary.exists()


def test_the_report_names_nobody(card, tmp_path, monkeypatch):
    monkeypatch.setenv("BREAK", "-p")
    with pytest.raises(UserError):
        measure_arc.main(card)
    text = Path(card.log.report).read_text()
    assert "DEVICE_LOST" in text
    for secret in ("jdoe", str(tmp_path), str(Path.cwd()), "hf_secret"):
        assert secret not in text


def test_without_a_card_the_report_says_what_is_there(card, monkeypatch):
    monkeypatch.setenv("DEVICES", "Available devices:\n  (none)")
    with pytest.raises(UserError, match="1 of 4 parts failed"):
        measure_arc.main(card)
    _, parts = report_of(card)
    assert "the engine sees no SYCL0" in parts["devices"]["error"]
    assert parts["sycl-ls"]["status"] == "passed"


def test_integrated_graphics_are_not_put_to_the_test_beside_a_card(card, monkeypatch):
    monkeypatch.setenv("DEVICES", DEVICES.replace("SYCL0", "SYCL2").replace("SYCL1", "SYCL0"))
    with pytest.raises(UserError, match="1 of 4 parts failed"):
        measure_arc.main(card)
    error = "SYCL0 is integrated graphics beside SYCL2; hide it with ONEAPI_DEVICE_SELECTOR"
    assert report_of(card)[1]["devices"]["error"] == error


def test_a_phase_that_does_not_fit_is_no_failure(card, monkeypatch):
    monkeypatch.setenv("DEVICES", DEVICES.replace("15473 MiB, 15473", "5 MiB, 5"))
    measure_arc.main(card)
    _, parts = report_of(card)
    assert parts["phase 1"]["status"] == "skipped"
    assert parts["phase 1"]["error"] == "6 MiB of weights, 5 MiB of memory"
    assert parts["speed, phase 0, live, round 2"]["status"] == "passed"
