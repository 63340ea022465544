"""build.sh: sources, backends, and builds that were interrupted."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

from phase_twin.card import render, shell_safe
from release_shell import BUILT, ENGINE, program, run, work_of
from small_run import ROOT

PATCH = """\
--- a/src/type.c
+++ b/src/type.c
@@ -1 +1 @@
-int old;
+int {};
"""
CMAKE = """
if [[ $1 == --version ]]; then
    echo "cmake version ${CMAKE_IS:-3.25.1}"
    exit
fi
echo "$*" >>"$CALLS"
if [[ $1 == --build ]]; then
    mkdir -p "$2/bin"
    for name in "${@:6}"; do cp "$TRUE" "$2/bin/$name"; done
fi
"""
PIP = """
while (($# > 1)); do
    if [[ $1 == -d ]]; then mkdir -p "$2" && cp "$ARCHIVE" "$2"; fi
    shift
done
"""


@pytest.fixture
def build(release, fakes, tmp_path):
    """build.sh against a local repository and archive, with a cmake that only notes its calls."""
    origin = tmp_path / "origin"
    (origin / "src").mkdir(parents=True)
    (origin / "src/type.c").write_text("int old;\n")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "base"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    archive = tmp_path / "some_package-1.0.tar.gz"
    (tmp_path / "some_package-1.0/vendor").mkdir(parents=True)
    shutil.copytree(origin / "src", tmp_path / "some_package-1.0/vendor/llama.cpp/src")
    (tmp_path / "some_package-1.0/vendor/llama.cpp/.git").write_text("gitdir: nowhere\n")
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path, "some_package-1.0"], check=True)
    sdist = {"package": "some-package", "version": "1.0", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    engine = ENGINE | {"git": str(origin), "commit": commit, "sdist": ENGINE["sdist"] | sdist}
    script = release / "build/build.sh"
    script.write_text(render((ROOT / "release/build.sh").read_text(), {"engine": engine}, "build.sh", shell_safe))
    (release / "build/llama.cpp-turbo-phase-twin.patch").write_text(PATCH.format("new"))
    program(fakes, "cmake", CMAKE)
    program(fakes, "python3", PIP)
    for name in ("ninja", "c++", "icx", "icpx"):
        program(fakes, name, "exit 0")
    calls = tmp_path / "calls"

    def call(*arguments: str, **env: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        calls.write_text("")
        env = {"CALLS": str(calls), "TRUE": shutil.which("true"), "ARCHIVE": str(archive), "MKLROOT": "/mkl"} | env
        done = run(script, *arguments, path=fakes, **env)
        return done, calls.read_text().splitlines()

    return call


@pytest.mark.parametrize("source", ["git", "sdist"])
def test_build(build, release, source):
    done, calls = build("--cpu", "--source", source, "--jobs", "3", "--", "-DSOME=1")
    assert done.returncode == 0, done.stderr
    configure, compile_ = calls
    tree = work_of(release) / source
    assert configure.startswith(f"-S {tree} -B {release}/build/out -G Ninja -DCMAKE_BUILD_TYPE=Release ")
    assert f"-DLLAMA_BUILD_NUMBER={ENGINE['tag'][1:]}" in configure
    assert "SYCL" not in configure
    assert configure.endswith("-DSOME=1")
    assert compile_ == f"--build {release}/build/out -j 3 --target {' '.join(BUILT)}"
    assert (tree / "src/type.c").read_text() == "int new;\n"
    assert all(os.access(release / "build/out/bin" / name, os.X_OK) for name in BUILT)

    done, calls = build("--cpu", "--source", source, "--jobs", "1", "--", "-DSOME=1")
    assert (done.returncode, calls) == (0, [])
    assert done.stdout.startswith("Already built: ")

    (release / "build/llama.cpp-turbo-phase-twin.patch").write_text(PATCH.format("newer"))
    done, calls = build("--cpu", "--source", source, "--", "-DSOME=1")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2
    assert (tree / "src/type.c").read_text() == "int newer;\n"
    assert "Fetching" not in done.stdout  # what was fetched serves again


def test_build_for_sycl(build):
    done, calls = build()
    assert done.returncode == 0, done.stderr
    assert "-DCMAKE_BUILD_TYPE=Release" in calls[0]
    assert "-DGGML_SYCL=ON -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx -DGGML_SYCL_F16=OFF" in calls[0]
    assert {"llama-server", "llama-cli", "llama-bench"} <= set(calls[1].split())
    done, calls = build()
    assert (done.returncode, calls) == (0, [])  # a second run


def test_build_for_sycl_after_the_patch_changed(build, release):
    build()
    (release / "build/llama.cpp-turbo-phase-twin.patch").write_text(PATCH.format("newer"))
    done, calls = build()
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2
    assert (work_of(release) / "git/src/type.c").read_text() == "int newer;\n"


def test_build_with_half_precision(build):
    build()
    done, calls = build("--f16")
    assert done.returncode == 0, done.stderr
    assert "-DGGML_SYCL_F16=ON" in calls[0]
    assert build("--f16")[1] == []
    done, calls = build("--f16", "--cpu")
    assert (done.returncode, calls) == (1, [])
    assert done.stderr == "build.sh: --f16 is for SYCL; leave out --cpu or --f16\n"


def cuda_toolkit(fakes, release: str, *cards: str, says: str = "", lacks: str = "-") -> None:
    """A CUDA toolkit for compute capabilities from 7.5 to 12.1, and cards of some; `says` is why it cannot compile."""
    program(
        fakes,
        "nvcc",
        f"""case $* in
            --version) echo 'Cuda compilation tools, release {release}, V{release}.1' ;;
            --list-gpu-arch) printf 'compute_%s\\n' 75 80 86 89 90 120 121 ;;
            *-l{lacks}) exit 1 ;;
            *) read -r line && [[ -z '{says}' || $* == *g++-12* ]] || {{ echo 'note' '{says}' >&2; exit 1; }} ;;
        esac""",
    )
    (fakes / "nvidia-smi").unlink(missing_ok=True)
    if cards:
        program(fakes, "nvidia-smi", f"printf '%s\\n' {' '.join(map(repr, cards))}")


def rocm(fakes, version: str, *targets: str, libraries: bool = True) -> None:
    """AMD's ROCm of a version, and cards of the targets given."""
    root = fakes / "rocm"
    program(fakes, "hipconfig", f"case $1 in -R) echo '{root}' ;; -l) echo '{root}/bin' ;; *) echo '{version}' ;; esac")
    program(root / "bin", "clang", "exit 0")
    program(root / "bin", "rocm_agent_enumerator", f"printf '%s\\n' gfx000 {' '.join(targets)}")
    for name in ("hipblas", "rocblas") if libraries else ():
        (root / "include" / name).mkdir(parents=True, exist_ok=True)
        (root / "include" / name / f"{name}.h").touch()


@pytest.mark.parametrize(
    ("version", "cards", "options", "expected"),
    [
        ("12.4", ["8.9"], [], "89-real"),
        ("12.4", ["8.6", "8.9", "8.6"], [], "86-real;89-real"),
        ("13.0", ["12.0"], [], "120-real"),
        # without a card, or with a driver that does not know the question
        ("11.5", [], [], "50-virtual;61-virtual;70-virtual;75-virtual;80-virtual;86-real"),
        ("12.4", [], [], "50-virtual;61-virtual;70-virtual;75-virtual;80-virtual;86-real;89-real;90-virtual"),
        ("12.8", [], [], "50-virtual;61-virtual;70-virtual;75-virtual;80-virtual;86-real;89-real;90-virtual;120a-real"),
        (
            "13.0",
            ["Field 'compute_cap' is not valid"],
            [],
            "75-virtual;80-virtual;86-real;89-real;90-virtual;120a-real;121a-real",
        ),
        ("12.4", ["8.9"], ["--arch", "8.6,90a"], "86;90a"),
        ("12.4", [], ["--", "-DCMAKE_CUDA_ARCHITECTURES=all"], "all"),
    ],
)
def test_cuda_builds_for_the_cards_or_for_all(build, fakes, version, cards, options, expected):
    cuda_toolkit(fakes, version, *cards)
    done, calls = build("--cuda", *options)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"-DCMAKE_CUDA_ARCHITECTURES=(\S+)", calls[0]) == [expected]
    stated = expected in done.stderr and done.stderr.startswith("build.sh: no NVIDIA card here, so for all: ")
    assert stated == ("virtual" in expected)
    # a card that comes or goes does not undo the build
    cuda_toolkit(fakes, version, "9.0")
    assert build("--cuda", *options)[1] == []


@pytest.mark.parametrize(
    ("toolkit", "options", "message"),
    [
        ({"release": "13.0", "cards": ["6.1"]}, [], "a CUDA toolkit for compute capability 6.1: 13.0 has compute_75 "),
        ({"release": "12.4"}, ["--arch", "10.3f"], "a CUDA toolkit for compute capability 10.3: 12.4 has compute_75 "),
        ({"release": "10.2"}, [], "CUDA toolkit 11.1 or newer: nvcc is of release 10.2"),
        ({"release": "x"}, [], "nvcc that runs: "),
        (
            {"release": "11.5", "says": "error: packs"},
            [],
            "a C++ compiler for nvcc 11.5, such as -- -DCMAKE_CUDA_HOST_COMPILER=g++-12; it says: note error",
        ),
        ({"release": "12.4", "lacks": "cublas"}, [], "libcublas.so of CUDA 12.4 (NVIDIA's package libcublas-dev-12-4)"),
        ({"release": "12.4", "lacks": "cuda"}, [], "libcuda.so of CUDA 12.4 (NVIDIA's package cuda-driver-dev-12-4)"),
    ],
)
def test_cuda_says_what_is_missing_before_it_builds(build, fakes, release, toolkit, options, message):
    cuda_toolkit(fakes, toolkit.pop("release"), *toolkit.pop("cards", []), **toolkit)
    done, calls = build("--cuda", *options)
    assert (done.returncode, calls) == (1, [])
    first, line, _ = done.stderr.splitlines()
    assert first == "build.sh: missing on this machine:"
    assert line.startswith(f"  {message}")
    assert not work_of(release).exists()


def test_cuda_with_another_compiler(build, fakes):
    cuda_toolkit(fakes, "11.5", says="error: packs")
    assert build("--cuda", "--", "-DCMAKE_CUDA_HOST_COMPILER=/usr/bin/g++-12")[0].returncode == 0
    assert build("--cuda", CUDAHOSTCXX="g++-12")[0].returncode == 0


@pytest.mark.parametrize(
    ("there", "options", "messages"),
    [
        ({"version": "5.7.3", "targets": ["gfx1100"]}, [], ["AMD's ROCm 6.1 or newer: this is 5.7"]),
        (
            {"version": "6.3.1"},
            [],
            ["an AMD card: no GPU was found to build for; name its target, such as --arch gfx1100"],
        ),
        (
            {"version": "6.3.1", "libraries": False},
            ["--arch", "gfx90a"],
            ["hipblas/hipblas.h in ", "rocblas/rocblas.h in "],
        ),
    ],
)
def test_hip_says_what_is_missing_before_it_builds(build, fakes, there, options, messages):
    rocm(fakes, there.pop("version"), *there.pop("targets", []), **there)
    done, calls = build("--hip", *options)
    assert (done.returncode, calls) == (1, [])
    lines = done.stderr.splitlines()[1:-1]
    assert len(lines) == len(messages)
    assert all(line.startswith(f"  {message}") for line, message in zip(lines, messages, strict=True))


def test_hip_for_cards_that_are_not_here(build, fakes):
    rocm(fakes, "6.3.1")
    done, calls = build("--hip", "--arch", "gfx1100,gfx90a")
    assert done.returncode == 0, done.stderr
    assert "-DGPU_TARGETS=gfx1100;gfx90a" in calls[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cpu", "--arch", "8.9"], "--arch is for --cuda and --hip"),
        (["--cuda", "--arch", "native"], "--arch is 'native'; it must be compute capabilities such as 8.6,8.9"),
        (["--cuda", "--arch", "8.9,"], "--arch is '8.9,'; it must be compute capabilities such as 8.6,8.9"),
        (["--hip", "--arch", "1100"], "--arch is '1100'; it must be targets such as gfx1100"),
    ],
)
def test_arch_is_checked(build, options, message):
    done, calls = build(*options)
    assert (done.returncode, calls, done.stderr) == (1, [], f"build.sh: {message}\n")


@pytest.mark.parametrize(
    ("options", "version", "least"),
    [(["--cpu"], "3.13.4", "3.14"), (["--vulkan"], "3.18.2", "3.19"), ([], "2.99", "3.14")],
)
def test_cmake_is_new_enough(build, fakes, options, version, least):
    program(fakes, "glslc", "exit 0")
    done, calls = build(*options, CMAKE_IS=version)
    assert (done.returncode, calls) == (1, [])
    assert (
        f"  cmake {least} or newer, this is {version.rpartition('.')[0] if version.count('.') > 1 else version} ("
        in done.stderr
    )
    assert build(*options, CMAKE_IS=f"{least}.0-rc1")[0].returncode == 0


@pytest.mark.parametrize(
    ("backend", "flag", "needs"),
    [
        ("cuda", "-DGGML_CUDA=ON", ["nvcc"]),
        ("hip", "-DGGML_HIP=ON", ["hipconfig"]),
        ("vulkan", "-DGGML_VULKAN=ON", ["glslc", "vulkan/vulkan.h", "spirv/unified1/spirv.hpp"]),
    ],
)
def test_build_for_another_backend(build, fakes, backend, flag, needs):
    # the compiler finds no header
    program(fakes, "c++", "exit 1")
    done, calls = build(f"--{backend}", ROCM_PATH="/no/such/folder", CUDA_PATH="/no/such/folder")
    assert (done.returncode, calls) == (1, [])
    assert [line.split()[0] for line in done.stderr.splitlines()[1:-1]] == ["c++", *needs]
    for name in ("glslc", "c++"):
        program(fakes, name, "exit 0")
    cuda_toolkit(fakes, "12.4", "8.9")
    rocm(fakes, "6.3.42131", "gfx1100")
    done, calls = build(f"--{backend}")
    assert done.returncode == 0, done.stderr
    assert flag in calls[0].split()
    assert "SYCL" not in calls[0]
    untried = "Nobody has tried the kernels for experts in 3 bits with --hip yet. See BUILD.md.\n"
    assert done.stdout.endswith("Start the model with run-nx2.sh.\n" + (untried if backend == "hip" else ""))
    assert build(f"--{backend}")[1] == []
    # another backend is another build
    done, calls = build("--cpu")
    assert (done.returncode, len(calls)) == (0, 2)
    assert "Experts" not in done.stdout


@pytest.mark.parametrize(
    ("known", "lacks"),
    [
        ("nothing", "matrix units and integer dot products"),
        ("GL_KHR_cooperative_matrix", "integer dot products"),
        ("GL_.*", ""),
    ],
)
def test_an_old_glslc_is_told(build, fakes, known, lacks):
    program(
        fakes,
        "glslc",
        f"""[[ $1 != --version ]] || {{ printf 'shaderc 2023.2-1\nspirv-tools 2022.4\n'; exit; }}
read -r version; read -r shader; [[ $shader =~ ^"#extension "({known})" : require"$ ]]""",
    )
    done, _ = build("--vulkan")
    assert done.returncode == 0, done.stderr
    told = (
        f"build.sh: this glslc (shaderc 2023.2-1) knows no {lacks}, so a card's stay unused; Debian 13's knows both\n"
    )
    assert done.stderr == (told if lacks else "")


def test_build_for_one_backend_at_a_time(build):
    for one, other in (("--cuda", "--hip"), ("--cpu", "--vulkan")):
        done, calls = build(other, one)
        assert (done.returncode, calls) == (1, [])
        assert re.fullmatch(rf"build.sh: ({one} and {other}|{other} and {one}) exclude each other\n", done.stderr)


@pytest.mark.parametrize(("more", "flag"), [([], "SYCL_F16=OFF"), (["--f16"], "SYCL_F16=ON"), (["--cuda"], "CUDA=ON")])
def test_vulkan_beside_another_backend(build, fakes, more, flag):
    main = [] if more == ["--cuda"] else ["--sycl"]
    cuda_toolkit(fakes, "12.4", "8.9")
    program(fakes, "glslc", "exit 0")
    done, calls = build("--vulkan", *main, *more)
    assert done.returncode == 0, done.stderr
    assert f"-DGGML_{flag}" in calls[0].split()
    assert "-DGGML_VULKAN=ON" in calls[0].split()
    # what Vulkan needs is looked for with the compiler that is taken
    program(fakes, "icpx" if main else "c++", "exit 1")
    done, calls = build("--vulkan", *main, "--", "-DOTHER=ON")
    assert ("vulkan/vulkan.h (package libvulkan-dev)" in done.stderr, calls) == (True, [])


def test_build_sources_oneapi(build, fakes, tmp_path):
    """The compilers are found by oneAPI's script, which does not bear strict mode nor the user's arguments."""
    oneapi = tmp_path / "oneapi"
    for name in ("icx", "icpx"):
        (fakes / name).unlink()
        program(oneapi / "bin", name, "exit 0")
    (oneapi / "setvars.sh").write_text(
        f'false; echo "$unset_variable" >/dev/null; [[ $* == --force ]] && export MKLROOT=/ PATH={oneapi}/bin:$PATH\n'
    )
    done, calls = build("--jobs", "2", ONEAPI_ROOT=str(oneapi), MKLROOT="")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2


def test_build_inside_another_repository(build, release):
    """Git apply skips all files silently when it finds the repository around it."""
    subprocess.run(["git", "init", "-q", release], check=True)
    done, _ = build("--cpu", "--source", "sdist")
    assert done.returncode == 0, done.stderr
    assert (work_of(release) / "sdist/src/type.c").read_text() == "int new;\n"


def test_build_falls_back_to_the_package(build, release, tmp_path):
    shutil.rmtree(tmp_path / "origin")
    done, _ = build("--cpu")
    assert done.returncode == 0, done.stderr
    assert (work_of(release) / "sdist/src/type.c").read_text() == "int new;\n"
    done, calls = build("--cpu", "--source", "git", "--", "-DOTHER=1")
    assert (done.returncode, calls) == (1, [])
    assert "try --source sdist" in done.stderr.splitlines()[-1]


def test_build_refuses_another_package(build, release, tmp_path):
    (tmp_path / "some_package-1.0.tar.gz").write_bytes(b"other")
    done, calls = build("--cpu", "--source", "sdist")
    assert (done.returncode, calls) == (1, [])
    assert f"SHA-256 is {hashlib.sha256(b'other').hexdigest()}, expected " in done.stderr
    assert not (work_of(release) / "download").exists()


def test_build_names_all_that_is_missing(build, fakes, release):
    for name in ("cmake", "ninja", "icx", "git"):
        (fakes / name).unlink()
    done, _ = build(MKLROOT="")
    assert done.returncode == 1
    first, *named, last = done.stderr.splitlines()
    assert first == "build.sh: missing on this machine:"
    assert [line.split()[0] for line in named] == ["git", "cmake", "ninja", "icx", "oneMKL:"]
    assert "BUILD.md" in last
    assert "or build with --cpu" in done.stderr
    assert not work_of(release).exists()  # nothing was fetched


def test_build_with_a_patch_that_does_not_apply(build, release):
    (release / "build/llama.cpp-turbo-phase-twin.patch").write_text(PATCH.replace("int old", "int gone").format("new"))
    done, calls = build("--cpu")
    assert (done.returncode, calls) == (1, [])
    assert "the patch does not apply" in done.stderr.splitlines()[-1]


def test_build_of_a_tree_that_has_the_patch(build, release):
    had = PATCH.format("old").replace("-int old;", "-int older;")
    (release / "build/llama.cpp-turbo-phase-twin.patch").write_text(had)
    done, _ = build("--cpu")
    assert done.returncode == 0, done.stderr
    assert f"The patch is already applied to {work_of(release)}/git\n" in done.stdout
    assert (work_of(release) / "git/src/type.c").read_text() == "int old;\n"


def test_build_after_an_interrupted_one(build):
    done, _ = build("--cpu", TRUE="/no/such/program")
    assert done.returncode == 1
    done, calls = build("--cpu")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2
