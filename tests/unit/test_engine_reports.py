"""Reading what the engine's programs print."""

import json

import pytest

from build_engine import configure_flags
from measure_quality import parse_summary
from measure_speed import bench_command, parse_samples, summarise
from phase_twin.backend_ops import count_passed
from phase_twin.errors import UserError

SUMMARY = """
====== Perplexity statistics ======
Mean PPL(Q)                   :  15.101010 ±   0.210000
Mean PPL(Q)/PPL(base)         :   1.016300 ±   0.001200
====== KL divergence statistics ======
Mean    KLD:   0.049600 ±   0.000600
Maximum KLD:   3.100000
99.9%   KLD:   0.912000
99.0%   KLD:   0.401000
Median  KLD:   0.030100
Minimum KLD:  -0.000004
====== Token probability statistics ======
RMS Δp    :  4.000 ± 0.100 %
Same top p: 89.910 ± 0.300 %
"""


def test_summary_is_read():
    assert parse_summary(SUMMARY) == {
        "kld_mean": 0.0496,
        "kld_mean_err_printed": 0.0006,
        "kld_median": 0.0301,
        "kld_p999": 0.912,
        "top1": 89.91,
        "top1_err_printed": 0.3,
        "ppl_ratio": 1.0163,
        "ppl_ratio_err_printed": 0.0012,
    }


def test_missing_summary_line_is_named():
    with pytest.raises(UserError, match="no line for kld_median"):
        parse_summary(SUMMARY.replace("Median", "Middle"))


@pytest.mark.parametrize("output", ["0/0 tests passed\nOK", "41/42 tests passed\nFAIL", "nothing"])
def test_no_or_failed_backend_cases_are_refused(output):
    with pytest.raises(UserError, match="MUL_MAT"):
        count_passed(output, "MUL_MAT")


def test_backend_cases_are_counted():
    assert count_passed("  Backend CPU: \n  42/42 tests passed\n", "MUL_MAT") == 42


def test_build_is_named_after_base_and_patches():
    manifest = {"tag": "b9550", "commit": "f0156d1401500512", "patch_sha256": "abcdef0123456789"}
    flags = configure_flags("cpu", manifest)
    assert "-DLLAMA_BUILD_NUMBER=9550" in flags
    assert "-DLLAMA_BUILD_COMMIT=f0156d140-abcdef01" in flags
    assert "-DLLAMA_BUILD_UI=OFF" in flags
    assert "-DLLAMA_USE_PREBUILT_UI=OFF" in flags


def test_speed_rows():
    def round_of(t_s: float) -> str:
        entry = {"n_prompt": 512, "n_gen": 0, "n_depth": 1024, "avg_ts": t_s, "n_threads": 2}
        entry |= {"gpu_info": "", "cpu_info": "A CPU", "backends": "CPU"}
        return f"warning: something\n{json.dumps(entry)}\n[level_zero:gpu]\n"

    samples = {("low", "pp512", 1024): [parse_samples(round_of(speed))[0] for speed in (10.0, 14.0)]}
    (row,) = summarise(samples, {"low": "low.gguf"})
    assert row == {
        "file": "low.gguf",
        "label": "low",
        "backend": "CPU",
        "device": "A CPU",
        "threads": 2,
        "test": "pp512",
        "depth": 1024,
        "rounds": 2,
        "t_s": 12.0,
        "stddev": 2.828,
    }


def test_bench_chooses_the_phase():
    case = {"file": "twin.gguf", "variant": 1}
    command = bench_command("llama-bench", case, 512, 128, 2, [0, 4096])
    assert command[command.index("-d") + 1] == "0,4096"
    assert command[-2:] == ["--override-kv", "general.tensor_variant.default=int:1"]
