"""Building for a card, with fake programs in place of compilers, cmake and ninja."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_engine import (
    ONEAPI,
    compiler_of,
    configure_flags,
    forget_other_shaders,
    main,
    require_compiler,
    shader_compiler,
)
from phase_twin.backends import BACKENDS, CARDS
from phase_twin.errors import UserError

MANIFEST = {"tag": "b9550", "commit": "f0156d1401500512", "patch_sha256": "abcdef0123456789"}
ICPX = """\
echo "icpx $*" >>"$CALLS"
echo "Intel(R) oneAPI DPC++/C++ Compiler 2026.2.0"
echo "Target: x86_64-unknown-linux-gnu"
"""
CMAKE = """\
echo "cmake $*" >>"$CALLS"
[[ $1 == --build ]] || { mkdir -p "$4"; echo "CMAKE_CXX_COMPILER:STRING=icpx" >>"$4/CMakeCache.txt"; exit 0; }
mkdir -p "$2/bin"
for name in "${@:6}"; do echo program >"$2/bin/$name"; done
echo library >"$2/bin/libggml-sycl.so.0.0.1"
ln -sf libggml-sycl.so.0.0.1 "$2/bin/libggml-sycl.so.0"
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A folder that is all of the PATH, with what fake programs need."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in ("bash", "env", "mkdir", "ln"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    for name in ("MKLROOT", "MKL_DIR", "CC", "CXX", "CUDACXX", "GLSLC", "VULKAN_SDK"):
        monkeypatch.delenv(name, raising=False)
    return folder


def program(folder: Path, name: str, body: str = "exit 0") -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def oneapi(fakes, monkeypatch):
    program(fakes, "icpx", ICPX)
    program(fakes, "icx")
    program(fakes, "cmake", CMAKE)
    program(fakes, "ninja")
    monkeypatch.setenv("MKLROOT", "/opt/intel/oneapi/mkl/latest")
    return fakes


@pytest.fixture
def rule(tmp_path):
    """The rule's call, for two programs."""
    (tmp_path / "source.json").write_text(json.dumps(MANIFEST))
    made = tmp_path / "sycl/bin"
    return SimpleNamespace(
        input=SimpleNamespace(manifest=tmp_path / "source.json"),
        output=SimpleNamespace(
            programs=[made / "llama-bench", made / "test-backend-ops"], facts=tmp_path / "sycl/engine.json"
        ),
        params={"f16": True},
        log=SimpleNamespace(tool=tmp_path / "tool.log"),
        threads=3,
    )


class Params(dict):
    """Parameters by key and by attribute, as Snakemake hands them over."""

    __getattr__ = dict.__getitem__


def test_build_with_oneapi(oneapi, rule, tmp_path):
    build = tmp_path / "build"
    rule.params = Params(backend="sycl", f16=True, tree=str(tmp_path / "tree"), build=str(build))
    made = rule.output.programs[0].parent
    made.mkdir(parents=True)
    (made / "libggml-sycl.so.0.0.0").write_text("of an earlier build")
    main(rule)
    configure, compile_, asked = (tmp_path / "calls").read_text().splitlines()
    assert asked == "icpx --version"
    for flag in (
        "-DGGML_SYCL=ON -DCMAKE_CXX_COMPILER=icpx -DCMAKE_C_COMPILER=icx",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_SYCL_F16=ON",
    ):
        assert flag in configure
    assert configure.rindex("-DBUILD_SHARED_LIBS=ON") > configure.rindex("-DBUILD_SHARED_LIBS=OFF")
    assert compile_ == f"cmake --build {build} -j 3 --target llama-bench test-backend-ops"
    assert sorted(os.listdir(made)) == [
        "libggml-sycl.so.0",
        "libggml-sycl.so.0.0.1",
        "llama-bench",
        "test-backend-ops",
    ]
    assert os.readlink(made / "libggml-sycl.so.0") == "libggml-sycl.so.0.0.1"
    facts = json.loads(rule.output.facts.read_text())
    assert facts["backend"] == "sycl"
    assert facts["compiler"] == "Intel(R) oneAPI DPC++/C++ Compiler 2026.2.0"
    assert facts["patch_sha256"] == MANIFEST["patch_sha256"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_build_from_before_the_folder_was_moved_is_made_anew(oneapi, rule, tmp_path, moved):
    build, tree = tmp_path / "build", tmp_path / "tree"
    build.mkdir()
    (build / "kept.o").touch()
    home = tmp_path / "elsewhere" if moved else tree
    (build / "CMakeCache.txt").write_text(f"CMAKE_HOME_DIRECTORY:INTERNAL={home}\n")
    rule.params = Params(backend="sycl", f16=True, tree=str(tree), build=str(build))
    main(rule)
    assert (build / "kept.o").exists() != moved


@pytest.mark.parametrize(("f16", "value"), [(False, "OFF"), (True, "ON")])
def test_half_precision_is_said_either_way(f16, value):
    assert f"-DGGML_SYCL_F16={value}" in configure_flags("sycl", MANIFEST, f16)
    assert "SYCL" not in " ".join(configure_flags("cpu", MANIFEST))


def test_without_oneapi_one_line_says_what_to_do(fakes):
    with pytest.raises(UserError) as caught:
        require_compiler("sycl")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "icpx is not on the PATH, icx is not on the PATH, neither MKLROOT nor MKL_DIR is set" in message
    assert message.endswith(ONEAPI)
    assert "source /opt/intel/oneapi/setvars.sh" in message


def test_without_mkl(oneapi, monkeypatch):
    monkeypatch.delenv("MKLROOT")
    with pytest.raises(UserError, match=r"engine\.backend is sycl, but neither MKLROOT nor MKL_DIR is set; install"):
        require_compiler("sycl")


def host_compiler(fakes: Path, *headers: str) -> None:
    """Programs that every build needs, with a compiler that knows some headers."""
    for name in ("cc", "cmake", "ninja"):
        program(fakes, name)
    known = "|".join((*headers, "nothing"))
    program(fakes, "c++", f'read -r line; [[ $line =~ ^"#include <"({known})">"$ ]]')


def test_every_backend_has_its_check(fakes):
    for backend in CARDS:
        with pytest.raises(UserError) as caught:
            require_compiler(backend)
        assert len(str(caught.value).splitlines()) == 1
    assert set(CARDS) == BACKENDS.keys() - {"cpu"}


def test_cuda_needs_nvcc(fakes, tmp_path, monkeypatch):
    host_compiler(fakes)
    with pytest.raises(
        UserError, match=r"engine\.backend is cuda, but there is no nvcc; install NVIDIA's CUDA toolkit"
    ):
        require_compiler("cuda")
    monkeypatch.setenv("CUDACXX", str(tmp_path / "my-nvcc"))
    program(tmp_path, "my-nvcc")
    require_compiler("cuda")
    monkeypatch.delenv("CUDACXX")
    (tmp_path / "cuda/bin").mkdir(parents=True)
    program(tmp_path / "cuda/bin", "nvcc")
    require_compiler("cuda")


@pytest.mark.parametrize(("listing", "native"), [("exit 0", "ON"), ("exit 9", "OFF")])
def test_cuda_is_built_for_the_card_that_is_there(fakes, listing, native):
    assert configure_flags("cuda", MANIFEST)[-1] == "-DGGML_NATIVE=OFF"
    program(fakes, "nvidia-smi", listing)
    program(fakes, "ccache")
    flags = configure_flags("cuda", MANIFEST)
    assert {f"-DGGML_NATIVE={native}", "-DGGML_CUDA=ON", "-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache"} <= {*flags}
    assert "CUDA" not in " ".join(configure_flags("vulkan", MANIFEST))


def test_vulkan_needs_glslc_and_headers(fakes):
    host_compiler(fakes, "vulkan/vulkan.hpp")
    with pytest.raises(UserError) as caught:
        require_compiler("vulkan")
    assert str(caught.value) == (
        "engine.backend is vulkan, but glslc is not on the PATH (package glslc), there is no spirv/unified1/spirv.hpp "
        "(package spirv-headers); the packages are those of Debian, Ubuntu"
    )
    program(fakes, "glslc")
    host_compiler(fakes, "vulkan/vulkan.hpp", "spirv/unified1/spirv.hpp")
    require_compiler("vulkan")


@pytest.mark.parametrize(
    ("extensions", "lacking"),
    [
        ("nothing", ["matrix units", "matrix units of NVIDIA", "integer dot products"]),
        ("GL_KHR_cooperative_matrix|GL_EXT_integer_dot_product", ["matrix units of NVIDIA"]),
        ("GL_.*", []),
    ],
)
def test_the_shader_compiler_tells_what_it_lacks(fakes, extensions, lacking):
    program(
        fakes,
        "glslc",
        f"""[[ $1 != --version ]] || {{ printf 'shaderc 2023.2-1\nspirv-tools 2022.4\n'; exit; }}
read -r version; read -r shader; [[ $shader =~ ^"#extension "({extensions})" : require"$ ]]""",
    )
    assert shader_compiler() == {"glslc": "shaderc 2023.2-1", "lacks": lacking}


def test_a_build_with_another_glslc_begins_anew(tmp_path):
    build, old, new = (
        tmp_path / "build",
        {"glslc": "2025.2", "lacks": []},
        {"glslc": "2023.2", "lacks": ["matrix units"]},
    )
    forget_other_shaders(build, old)
    (build / "CMakeCache.txt").touch()
    forget_other_shaders(build, old)
    assert (build / "CMakeCache.txt").exists()
    forget_other_shaders(build, new)
    assert not (build / "CMakeCache.txt").exists()
    # as builds of before are
    (build / "shaders.json").unlink()
    (build / "CMakeCache.txt").touch()
    forget_other_shaders(build, new)
    assert not (build / "CMakeCache.txt").exists()


def test_the_cpu_needs_no_oneapi(fakes):
    for name in ("cc", "cmake", "ninja"):
        program(fakes, name)
    with pytest.raises(UserError, match=r"c\+\+ is not on the PATH; install it .*apt install g\+\+"):
        require_compiler("cpu")
    program(fakes, "c++")
    require_compiler("cpu")


def test_the_compiler_is_the_one_that_cmake_takes(fakes, tmp_path, monkeypatch):
    for name in ("cc", "cmake", "ninja"):
        program(fakes, name)
    monkeypatch.setenv("CXX", "clang++ -stdlib=libc++")
    with pytest.raises(UserError, match=r"CXX is clang\+\+, which is not on the PATH; unset CXX, or install it"):
        require_compiler("cpu")
    program(fakes, "clang++", "echo 'clang version 22'; echo more")
    require_compiler("cpu")
    # the one of an earlier build, whatever CXX says now
    (tmp_path / "CMakeCache.txt").write_text("A:STRING=b\nCMAKE_CXX_COMPILER:FILEPATH=clang++\n")
    monkeypatch.delenv("CXX")
    assert compiler_of(tmp_path) == "clang version 22"
