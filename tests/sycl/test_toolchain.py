"""The compiler of toolchain/sycl, with small programs."""

import subprocess
from pathlib import Path

import pytest

from sycl_toolchain import parts
from sycl_toolchain.precompiled import precompiled_header

pytestmark = pytest.mark.sycl

KERNELS = """
#include <sycl/sycl.hpp>
#ifdef __SYCL_DEVICE_ONLY__
#include "device.hpp"
#else
constexpr int FACTOR = 0;
#endif

void scale(sycl::queue & queue, sycl::ext::oneapi::bfloat16 * values, int n) {
    queue.parallel_for(sycl::range<1>(n), [=](sycl::id<1> i) {
        values[i] = sycl::ext::oneapi::bfloat16(float(values[i]) * FACTOR);
    }).wait();
}
"""
PROGRAM = """
#include <sycl/sycl.hpp>
#include <cstdio>

using bfloat16 = sycl::ext::oneapi::bfloat16;
void scale(sycl::queue & queue, bfloat16 * values, int n);

int main() {
    sycl::queue queue;
    bfloat16 * values = sycl::malloc_shared<bfloat16>(3, queue);
    for (int i = 0; i < 3; i++) {
        values[i] = 1.5f + i;
    }
    scale(queue, values, 3);
    std::printf("%g %g %g\\n", float(values[0]), float(values[1]), float(values[2]));
}
"""


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "kernels.cpp").write_text(KERNELS)
    (tmp_path / "main.cpp").write_text(PROGRAM)
    (tmp_path / "device.hpp").write_text("constexpr int FACTOR = 2;\n")
    return tmp_path


@pytest.fixture
def call(root, project):
    """Run a program of the toolchain in the project's folder."""

    def run(program: str, *arguments: str, code: int = 0) -> str:
        command = [root / "toolchain/sycl" / program, *arguments]
        done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == code, done.stdout
        return done.stdout

    return run


def build(call) -> str:
    for name in ("main", "kernels"):
        options = f"-fsycl -std=c++17 -O2 -MD -MT {name}.o -MF {name}.d -o {name}.o -c {name}.cpp"
        assert call("syclcc", *options.split()) == ""
    call("syclcc", "-fsycl", "main.o", "kernels.o", "-o", "program")
    return call("sycl-run", "./program").strip()


def test_a_program_of_two_files_runs(call):
    assert build(call) == "3 5 7"


def test_a_header_of_the_device_half_is_a_dependency(call, project):
    assert build(call) == "3 5 7"
    assert "device.hpp" in (project / "kernels.d").read_text()
    assert "/.venv-sycl/" not in (project / "kernels.d").read_text()
    # the object file must not come from ccache now
    (project / "device.hpp").write_text("constexpr int FACTOR = 4;\n")
    assert build(call) == "6 10 14"


def test_precompiled_headers_follow_their_files(call, project, tmp_path, monkeypatch):
    """One for each half serves all files; a header that is newer has both made again."""
    folder = tmp_path / "precompiled"
    monkeypatch.setattr("sycl_toolchain.precompiled.FOLDER", folder)
    options = ["-std=c++17", "-I", str(project)]
    clang = parts.require(parts.CLANG, "clang-22")
    (project / "own.hpp").write_text("#pragma once\n")
    (project / "precompiled.hpp").write_text('#include "own.hpp"\n')
    monkeypatch.setattr(parts, "PRECOMPILED", project / "precompiled.hpp")
    first = precompiled_header(clang, options)
    made = first.file.stat().st_mtime_ns
    (folder / "of the device half").touch()
    assert precompiled_header(clang, options).file.stat().st_mtime_ns == made
    assert precompiled_header(clang, [*options, "-O2"]) != first
    (project / "own.hpp").write_text("#pragma once\nconstexpr int NEWER = 1;\n")
    assert precompiled_header(clang, options).file.stat().st_mtime_ns > made
    assert [path.suffix for path in sorted(folder.iterdir())] == [".d", ".pch"]
    (project / "own.hpp").write_text("no C++\n")
    assert precompiled_header(clang, options) is None
    assert list(folder.iterdir()) == []


def test_what_does_not_compile_fails_with_the_compilers_words(call, project):
    (project / "device.hpp").write_text("constexpr int FACTOR = missing;\n")
    message = call("syclcc", "-fsycl", "-std=c++17", "-c", "kernels.cpp", "-o", "kernels.o", code=1)
    assert "use of undeclared identifier 'missing'" in message
    assert not (project / "kernels.o").exists()
