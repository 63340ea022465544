"""The compiler driver of toolchain/sycl: options, modules, dependency files, hard links. Nothing is compiled here."""

import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from phase_twin.backend_ops import pattern
from sycl_toolchain import driver, parts
from sycl_toolchain.command_line import link_options, parse_compilation, split_options, uses_sycl
from sycl_toolchain.dependencies import format_dependencies, merge_dependencies, parse_dependencies
from sycl_toolchain.errors import ToolchainError
from sycl_toolchain.install import link_duplicates
from sycl_toolchain.registration import read_modules, registration_code
from sycl_toolchain.spirv import entry_points
from test_sycl import count_calls

# as CMake writes it for a file of ggml-sycl
READING = "-DGGML_USE_SYCL -D VERSION=1 -I/tree/include -isystem /wheels/include -O3 -DNDEBUG"
COMPILE = shlex.split(
    f"{READING} -std=gnu++17 -fPIC -Wall -Wno-narrowing -fsycl -MD -MT mmvq.o -MF mmvq.o.d -o mmvq.o -c /tree/mmvq.cpp"
)


def instruction(opcode: int, *operands: int) -> bytes:
    return struct.pack(f"<{1 + len(operands)}I", (1 + len(operands)) << 16 | opcode, *operands)


def entry_point(name: str) -> bytes:
    text = name.encode() + b"\0" * (4 - len(name) % 4)
    # kernel, function 7, name, two interface variables
    return instruction(15, 6, 7, *struct.unpack(f"<{len(text) // 4}I", text), 8, 9)


def module(*names: str) -> bytes:
    header = struct.pack("<5I", 0x07230203, 0x00010400, 0, 100, 0)
    capability, function = instruction(17, 6), instruction(54, 1, 2, 0, 3)
    return header + capability + b"".join(map(entry_point, names)) + function + entry_point("after")


def test_each_half_gets_its_options():
    task = parse_compilation(COMPILE)
    assert task.source == Path("/tree/mmvq.cpp")
    assert task.object == Path("mmvq.o")
    assert (task.dependency_file, task.dependency_target) == (Path("mmvq.o.d"), "mmvq.o")
    assert task.device_options == shlex.split(f"{READING} -std=c++17 -Wno-narrowing")
    assert task.host_options == shlex.split(f"{READING} -std=gnu++17 -fPIC -Wall -Wno-narrowing")


def test_names_are_chosen_as_compilers_do():
    task = parse_compilation(["-fsycl", "-c", "-MD", "folder/a.cpp"])
    assert (task.object, task.dependency_file, task.dependency_target) == (Path("a.o"), Path("a.d"), "a.o")
    assert parse_compilation(["-fsycl", "-c", "a.cpp", "-ob.o"]).object == Path("b.o")
    assert parse_compilation(["-fsycl", "-c", "a.cpp"]).dependency_file is None


def test_option_words_survive():
    words = ["-isystem", "a", "-MF", "b", "-DX=-c", "-I", "c d", "-L/e", "-", "f.o"]
    assert [word for option in split_options(words) for word in option.words] == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.cpp", "b.cpp"], "takes one source file (.cpp .cc .cxx), found: a.cpp, b.cpp"),
        ([], "found: none"),
        (["a.c"], "found: a.c"),
        (["a.cpp", "-fsycl-targets=spir64_gen"], "-fsycl-targets=spir64_gen is not supported with -fsycl: kernels are"),
        (["a.cpp", "-include", "b.h"], "-include is not supported with -fsycl: the device half"),
        (["a.cpp", "-o"], "-o needs a value"),
    ],
)
def test_what_is_not_supported_is_said(words, message):
    with pytest.raises(ToolchainError) as caught:
        parse_compilation(["-fsycl", "-c", *words])
    assert message in str(caught.value)


def test_linking_drops_what_only_device_compilers_know():
    words = ["-O3", "-fsycl", "-Xs", "-ze-intel-greater-than-4GB-buffer-required", "a.o", "-o", "a"]
    assert link_options(words) == ["-O3", "a.o", "-o", "a"]


def test_without_fsycl_it_is_an_ordinary_compiler():
    assert uses_sycl(COMPILE)
    assert not uses_sycl(["-c", "a.cpp"])
    assert not uses_sycl(["-fsycl", "-fno-sycl"])


def test_entry_points_of_a_module():
    assert entry_points(module("_ZTS1a", "abc", "abcd")) == ["_ZTS1a", "abc", "abcd"]
    assert entry_points(module()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no SPIR-V module"),
        (module()[:-1], "no SPIR-V module"),
        (bytes(20), "starts with"),
        (module()[:20] + struct.pack("<I", 15), "impossible length"),
        (module("a")[:32], "impossible length"),
    ],
)
def test_what_is_no_module_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        entry_points(content)


def test_registration_does_not_depend_on_the_order_of_files(tmp_path):
    for name, kernels in (("kernel-0.spv", ["b"]), ("kernel-1.spv", ["a"]), ("kernel-2.spv", [])):
        (tmp_path / name).write_bytes(module(*kernels))
    found = read_modules(tmp_path)
    assert {path.name: names for path, names in found.items()} == {"kernel-0.spv": ["b"], "kernel-1.spv": ["a"]}
    code = registration_code(found)
    assert code == registration_code(dict(reversed(found.items())))
    assert code.index("kernel-1.spv") < code.index("kernel-0.spv")
    assert "const library kernels = { 1, 2, images, 0, 0 };" in code
    assert registration_code({}) == ""


def test_dependency_files(tmp_path):
    names = [str(tmp_path / name) for name in ("plain.h", "with space.h", "dollar$.h", "hash#.h")]
    for name in names:
        Path(name).touch()
    text = format_dependencies("a.o", names)
    assert parse_dependencies(text) == names
    assert parse_dependencies("a.o: b.cpp \\\n  c.h d.h \\\n e.h\n") == ["b.cpp", "c.h", "d.h", "e.h"]


def test_dependencies_of_both_halves_are_merged(tmp_path):
    for name in ("host.h", "device.h", "both.h", "wheels/sycl.h"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    host, device, both, wheel = (str(tmp_path / name) for name in ("host.h", "device.h", "both.h", "wheels/sycl.h"))
    lists = [[host, both, wheel], ["/in-memory/stddef.h", both, device]]
    assert merge_dependencies(lists, ignored=[tmp_path / "wheels"]) == [host, both, device]


def test_duplicates_become_hard_links(tmp_path):
    for name, content in (("a.so", b"x" * 10), ("a.so.1", b"x" * 10), ("b.so", b"y" * 10), ("small", b"x")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "small.1").write_bytes(b"x")
    assert link_duplicates(tmp_path, min_bytes=5) == 10
    assert (tmp_path / "a.so").samefile(tmp_path / "a.so.1")
    assert (tmp_path / "b.so").read_bytes() == b"y" * 10
    assert not (tmp_path / "small").samefile(tmp_path / "small.1")
    assert link_duplicates(tmp_path, min_bytes=5) == 0


def test_ccache_looks_up_by_the_toolchain(monkeypatch):
    first = driver.ccache_environment(sys.executable)
    assert first["CCACHE_DEPEND"] == "1"
    monkeypatch.setattr(parts, "PRELUDE", parts.DEVICE_PASS_SOURCE)
    assert driver.ccache_environment(sys.executable)["CCACHE_COMPILERCHECK"] != first["CCACHE_COMPILERCHECK"]


@pytest.mark.parametrize("words", [["-fsycl", "-c", "a.cpp"], ["-fsycl", "a.o"]])
def test_a_missing_toolchain_is_one_sentence(root, tmp_path, words):
    command = [root / "toolchain/sycl/syclcc", *words]
    done = subprocess.run(command, env={"PATH": "/usr/bin", "SYCL_VENV": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2
    device_pass = tmp_path / "bin/sycl-device-pass"
    assert done.stderr == f"syclcc: {device_pass} is missing; set the toolchain up with: make setup-sycl\n"


def test_cases_are_selected_by_type():
    def selected(*arguments) -> list[str]:
        return [case for case in cases if re.search(pattern(*arguments), case)]

    cases = [
        "type_a=q3_K,type_b=f32,n_mats=4",
        "type_a=q3_K,type_b=f32,n_mats=128",
        "type_a=q4_K,n_mats=8",
        "type=q3_K",
    ]
    assert selected("MUL_MAT_ID", ["q3_K", "iq3_a770"]) == cases[:1]
    assert selected("GET_ROWS", ["q3_K"]) == cases[3:]
    assert selected("MUL_MAT_ID", []) == [cases[0], *cases[2:]]


def test_calls_of_kernels_are_read():
    output = """  MUL_MAT(k=512): sycl-stats: mul_mat_vec_reorder  iq3_a770           13 calls          44880 bytes
sycl-stats: reorder                      q4_K               18 calls       65470464 bytes
"""
    assert count_calls(output) == {"mul_mat_vec_reorder iq3_a770": 13, "reorder q4_K": 18}
