"""What each instruction set turns on and needs, and how its tests are read; nothing is built."""

import pytest

from phase_twin.errors import UserError
from test_instruction_sets import SETS, count_shapes, cpu_flags, forced_flags

ZEN3 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx f16c fma bmi2 avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n"


def enabled(name: str) -> set[str]:
    """ggml's options that a set turns on."""
    return {flag[7:-3] for flag in SETS[name].flags if flag.startswith("-DGGML_") and flag.endswith("=ON")}


def test_each_set_says_of_every_option_whether_it_is_on():
    sets = [one for one in SETS.values() if not one.emulator]
    names = {tuple(flag.partition("=")[0] for flag in one.flags) for one in sets}
    assert len(names) == 1
    assert len({(one.folder, one.flags) for one in sets}) == len(sets)


def test_the_first_set_is_without_avx_and_the_others_differ_by_one_option():
    assert enabled("x86-64") == set()
    assert enabled("AVX2, AVX-VNNI") - enabled("AVX2") == {"AVX_VNNI"}
    assert enabled("AVX-512, VNNI") - enabled("AVX-512") == {"AVX512_VNNI"}
    assert enabled("AVX-512, VNNI, VBMI") - enabled("AVX-512, VNNI") == {"AVX512_VBMI"}
    assert enabled("AVX2, sanitized") == enabled("AVX2")


def test_what_the_cpu_lacks_is_named():
    cpu = cpu_flags(ZEN3)
    assert SETS["AVX2"].missing(cpu) == []
    assert SETS["AVX2, AVX-VNNI"].missing(cpu) == ["avx_vnni"]
    assert "avx512_vnni" in SETS["AVX2, VNNI of 256 bits"].missing(cpu)
    assert SETS["x86-64"].missing(set()) == []


def test_arm_runs_under_an_emulator_on_any_cpu():
    assert SETS["ARMv8.2, dotprod"].missing(set()) == []
    assert SETS["ARMv8.2, dotprod"].emulator[0] == "qemu-aarch64"


def test_flags_of_the_kernels_are_read():
    commands = """\
{"command": "c++ -O3 -mavx -c ggml-cpu/ops.cpp"},
{"command": "c++ -fsanitize=address,undefined -O3 -mavx2 -std=gnu++17 -mfma -o x.o -c /a/ggml-cpu/iq3-a770.cpp"}
"""
    assert forced_flags(commands) == ["-fsanitize=address,undefined", "-mavx2", "-mfma"]


def test_shapes_are_counted():
    assert count_shapes("a line\n352 shapes, 0 failed\n", "test-iq3-a770-mul") == 352


@pytest.mark.parametrize("output", ["352 shapes, 1 failed", "0 shapes, 0 failed", "nothing"])
def test_no_or_failed_shapes_are_refused(output):
    with pytest.raises(UserError, match="test-iq3-a770-mul"):
        count_shapes(output, "test-iq3-a770-mul")
