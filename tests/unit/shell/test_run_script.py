"""run-nx2.sh: which options the engine gets, for cards, budgets and the user's own."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from release_shell import LISTINGS, TWIN, program, run

SMALL = ["--override-kv", "general.tensor_variant.default=int:0"]
LARGE = ["--override-kv", "general.tensor_variant.default=int:1"]
ONE = ["-sm", "none", "-ngl", "999"]
ALL = ["-sm", "layer", "-ngl", "999"]
ENGINE_ALL = [*ALL, "-ts", "15473/15472"]  # by the memory that the engine lists as free
CPU = ["-ngl", "0"]
SYCL_LS = """echo '[opencl:cpu][opencl:0] Intel(R) OpenCL, AMD EPYC'
echo '[level_zero:gpu][level_zero:9] Intel(R) oneAPI Unified Runtime over Level-Zero, Intel(R) UHD Graphics 770'"""
CARD = "echo '[level_zero:gpu][level_zero:{}] Intel(R) Level-Zero, Intel(R) Arc(TM) A770 Graphics 12.55.8'"


def engine_lists(fakes: Path, *names: str) -> None:
    lines = "".join(f"echo '  SYCL{n}: {name}'\n" for n, name in enumerate(names))
    program(fakes, "llama-server", f"echo 'Available devices:'\n{lines}")


def devices(fakes: Path, kind: str, count: int) -> dict[str, str]:
    """Give the machine `count` cards that `kind` tells of; return the environment that shows them."""
    if kind == "engine":
        engine_lists(
            fakes, *(f"Intel(R) Arc(TM) A770 Graphics (16225 MiB, {15473 - n} MiB free)" for n in range(count))
        )
    elif kind == "sycl-ls":
        program(fakes, "sycl-ls", "\n".join([SYCL_LS, *(CARD.format(n) for n in range(count))]))
    elif kind == "nvidia-smi":
        program(fakes, "nvidia-smi", "\n".join(f"echo 'GPU {n}: Some card (UUID: GPU-1)'" for n in range(count)) or ":")
    elif kind == "sysfs":
        for n, address in enumerate(["0000:00:02.0", *(f"0000:0{n + 3}:00.0" for n in range(count))]):
            card = fakes / "devices" / address
            card.mkdir(parents=True)
            (card / "vendor").write_text("0x8086\n")
            (fakes / "drm" / f"card{n}").mkdir(parents=True)
            (fakes / "drm" / f"card{n}" / "device").symlink_to(card)
            (fakes / "drm" / f"card{n}-DP-1").mkdir()
        return {"NX2_SYSFS": str(fakes / "drm")}
    return {}


@pytest.mark.parametrize("kind", ["engine", "sycl-ls", "nvidia-smi", "sysfs"])
@pytest.mark.parametrize(
    ("mode", "count", "expected"),
    [
        ("off", 0, SMALL + CPU),
        ("off", 1, SMALL + ONE),
        ("off", 2, SMALL + ONE),
        ("on", 0, LARGE + CPU),
        ("on", 1, LARGE + ALL),
        ("on", 2, LARGE + ALL),
        ("auto", 0, SMALL + CPU),
        ("auto", 1, SMALL + ONE),
        ("auto", 2, LARGE + ALL),
    ],
)
def test_run_prints_the_command(release, fakes, kind, mode, count, expected):
    env = devices(fakes, kind, count)
    done = run(release / "run-nx2.sh", "--sm", mode, "--print", path=fakes, **env)
    assert done.returncode == 0, done.stderr
    tool = str(fakes / "llama-server") if kind == "engine" else "llama-server"
    if (kind, count) == ("engine", 2) and expected == LARGE + ALL:
        expected = LARGE + ENGINE_ALL
    assert shlex.split(done.stdout) == [tool, "-m", str(release / TWIN), *expected]


def test_an_engine_without_devices_overrules_the_machine(release, fakes):
    """A CPU build refuses -sm none, whatever cards there are."""
    devices(fakes, "sycl-ls", 2)
    devices(fakes, "engine", 0)
    done = run(release / "run-nx2.sh", "--print", path=fakes)
    assert shlex.split(done.stdout)[3:] == SMALL + CPU
    assert "no graphics card found: variant 0 on the CPU" in done.stderr


ARC, UHD, UNKNOWN = (
    "Intel(R) Arc(TM) B580 Graphics (11605 MiB, 11000 MiB free)",
    "Intel(R) UHD Graphics 770 (60000 MiB, 59000 MiB free)",
    "Some card (0 MiB, 0 MiB free)",
)


@pytest.mark.parametrize(
    ("mode", "listed", "expected"),
    [
        ("auto", [ARC, UHD], [*SMALL, *ONE, "-dev", "SYCL0"]),
        ("on", [UHD, ARC], [*LARGE, *ALL, "-dev", "SYCL1"]),
        ("auto", [ARC, UHD, ARC], [*LARGE, *ALL, "-ts", "11000/11000", "-dev", "SYCL0,SYCL2"]),
        ("auto", [UHD], SMALL + CPU),
        ("auto", [ARC, UNKNOWN], LARGE + ALL),
    ],
)
def test_layers_are_split_by_free_memory_over_cards_alone(release, fakes, mode, listed, expected):
    engine_lists(fakes, *listed)
    done = run(release / "run-nx2.sh", "--sm", mode, "--print", path=fakes)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[3:] == expected


@pytest.mark.parametrize(("listing", "cards"), LISTINGS)
def test_the_cards_of_a_listing(release, fakes, tmp_path, listing, cards):
    (tmp_path / "listing").write_text(listing)
    program(fakes, "llama-server", f"cat {shlex.quote(str(tmp_path / 'listing'))}")
    done = run(release / "run-nx2.sh", "--sm", "on", "--print", path=fakes)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)[5:]
    free = {found[1]: found[2] for found in re.finditer(r"(\w+\d): .*, (\d+) MiB free", listing)}
    expected = [*ALL] if cards else [*CPU]
    if len(cards) > 1:
        expected += ["-ts", "/".join(free[card] for card in cards)]
    if cards and len(cards) < len(free):
        expected += ["-dev", ",".join(cards)]
    assert words == expected


def test_devices_that_are_asked_for(release, fakes):
    engine_lists(fakes, ARC, UHD)
    done = run(release / "run-nx2.sh", "--print", "--", "-dev", "SYCL1", path=fakes)
    assert shlex.split(done.stdout)[3:] == [*SMALL, *ONE, "-dev", "SYCL1"]
    done = run(release / "run-nx2.sh", "--print", path=fakes, LLAMA_ARG_DEVICE="SYCL1,SYCL0")
    assert shlex.split(done.stdout)[3:] == [*LARGE, *ALL, "-ts", "59000/11000"]
    done = run(release / "run-nx2.sh", "--print", "--", "--device", "none", path=fakes)
    assert shlex.split(done.stdout)[3:] == [*SMALL, *CPU, "--device", "none"]


def test_llama_bench_has_its_own_way_to_list_devices(release, fakes):
    engine_lists(fakes, ARC, UHD, ARC)
    (fakes / "llama-server").rename(fakes / "llama-bench")
    done = run(release / "run-nx2.sh", "--print", path=fakes, NX2_TOOL="llama-bench")
    assert shlex.split(done.stdout)[-2:] == ["-dev", "SYCL0/SYCL2"]


def test_the_head_of_the_file_is_told_without_placement(release, fakes):
    devices(fakes, "sysfs", 1)
    program(fakes, "llama-variant-info", "[[ $1 != --list-devices ]] && printf '%s|' \"$@\"")
    done = run(release / "run-nx2.sh", "--sm", "on", "--", "-v", path=fakes, NX2_TOOL="llama-variant-info")
    assert done.stdout == "|".join([*LARGE, "-v", str(release / TWIN), ""])


def test_level_zero_is_asked_for_free_memory(release, fakes):
    listing = 'for n in 0 1; do echo "  SYCL$n: Arc (16225 MiB, 1547${ZES_ENABLE_SYSMAN:-} MiB free)"; done'
    program(fakes, "llama-server", f"echo 'Available devices:'; {listing}")
    done = run(release / "run-nx2.sh", "--print", path=fakes)
    assert shlex.split(done.stdout)[-2:] == ["-ts", "15471/15471"]


def test_the_users_split_wins(release, fakes):
    devices(fakes, "engine", 2)
    done = run(release / "run-nx2.sh", "--print", "--", "-ts", "3,1", path=fakes)
    assert shlex.split(done.stdout)[3:] == [*LARGE, *ENGINE_ALL, "-ts", "3,1"]  # the engine takes the last


def test_run_quotes_what_it_prints_and_passes(release, fakes):
    arguments = ["-p", "two words", "", "it's", '"', "$HOME", "*", "line\nbreak", "--sm", "--"]
    done = run(release / "run-nx2.sh", "--sm=off", "--print", "--", *arguments, path=fakes)
    shell = ["bash", "-c", f"printf '%s\\0' {done.stdout.rstrip()}"]
    words = subprocess.run(shell, capture_output=True, text=True).stdout.split("\0")[:-1]
    assert words[-len(arguments) :] == arguments
    program(fakes, "llama-server", "[[ $1 == --list-devices ]] && exit 1; printf '%s\\0' \"$@\"; exit 7")
    done = run(release / "run-nx2.sh", "--", *arguments, path=fakes)
    assert done.returncode == 7  # the engine's own
    assert done.stdout.split("\0")[:-1] == ["-m", str(release / TWIN), *SMALL, *CPU, *arguments]


def test_run_environment(release, fakes, tmp_path):
    model = tmp_path / "other model.gguf"
    model.write_bytes(b"GGUF")
    env = {"NX2_TOOL": "llama-cli", "NX2_MODEL": str(model), "NX2_BIN": str(tmp_path / "my bin"), "NX2_NGL": "12"}
    devices(fakes, "sycl-ls", 1)
    done = run(release / "run-nx2.sh", "--print", path=fakes, **env)
    expected = [str(tmp_path / "my bin/llama-cli"), "-m", str(model), *SMALL, "-sm", "none", "-ngl", "12"]
    assert shlex.split(done.stdout) == expected
    done = run(release / "run-nx2.sh", path=fakes, **env)
    assert done.returncode == 1
    assert "no program" in done.stderr.splitlines()[-1]
    built = program(release / "build/out/bin", "llama-server", "exit 1")
    done = run(release / "run-nx2.sh", "--print", path=fakes)
    assert shlex.split(done.stdout)[0] == str(built)


BOTH = """echo 'Available devices:'
echo '  SYCL0: Intel(R) Arc(TM) A770 Graphics (16225 MiB, 15473 MiB free)'
echo '  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16225 MiB, 15400 MiB free)'"""
# a speed for each device; one of 0 does not work
BENCH = r"""[[ $* =~ -dev\ ([A-Za-z]+)0\ .*-r\ 1 ]] && echo "${{BASH_REMATCH[1]}}" >>"$CALLS"
declare -A ns=([SYCL]={} [Vulkan]={})
ns=${{ns[${{BASH_REMATCH[1]}}]}}
((ns)) && printf '{{"n_prompt": 256, "avg_ns": 5, "x": 1}}\n{{"n_gen": 64, "avg_ns": %s}}\n' $ns"""


def devices_taken(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    return words[words.index("-dev") + 1] if "-dev" in words else ""


@pytest.mark.parametrize(
    ("speeds", "faster"), [((700, 300), "Vulkan0"), ((300, 700), "SYCL0"), ((0, 900), "Vulkan0"), ((0, 0), "SYCL0")]
)
def test_the_faster_backend_is_measured_once(release, fakes, tmp_path, speeds, faster):
    program(fakes, "llama-server", f'[[ $1 != --list-devices ]] && {{ echo "$*"; exit; }}\n{BOTH}')
    program(fakes, "llama-bench", BENCH.format(*speeds))
    calls = tmp_path / "calls"
    calls.touch()
    (release / TWIN).write_bytes(b"GGUF")
    env = {"CALLS": str(calls)}
    # what only shows the command measures nothing
    assert devices_taken(run(release / "run-nx2.sh", "--print", path=fakes, **env)) == "SYCL0"
    assert calls.read_text() == ""
    done = run(release / "run-nx2.sh", path=fakes, **env)
    assert devices_taken(done) == faster
    assert "SYCL and Vulkan both list this card" in done.stderr
    assert calls.read_text().split() == ["SYCL", "Vulkan"]
    again = run(release / "run-nx2.sh", path=fakes, **env)
    assert devices_taken(again) == faster
    # what failed is tried again
    assert (len(calls.read_text().split()) == 2) == any(speeds)
    for backend, device in (("sycl", "SYCL0"), ("vulkan", "Vulkan0"), ("cpu", "none")):
        done = run(release / "run-nx2.sh", "--backend", backend, path=fakes, **env)
        assert devices_taken(done) == device
        assert "both list" not in done.stderr
    assert devices_taken(run(release / "run-nx2.sh", path=fakes, NX2_BACKEND="vulkan", **env)) == "Vulkan0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "metal"], "--backend is 'metal'; it can be sycl, vulkan, cuda, hip or cpu"),
        (["--backend"], "--backend needs a value"),
        (["--backend", "sycl", "--", "-dev", "SYCL0"], "--backend and -dev exclude each other"),
        (["--backend", "cuda"], "the engine lists no card for --backend cuda; it lists: SYCL0; build/build.sh --cuda"),
    ],
)
def test_a_backend_that_cannot_be_taken(release, fakes, arguments, message):
    engine_lists(fakes, "Intel(R) Arc(TM) A770 Graphics (16225 MiB, 15473 MiB free)")
    done = run(release / "run-nx2.sh", *arguments, path=fakes)
    assert done.returncode == 1
    assert done.stderr.startswith(f"run-nx2.sh: {message}")


def test_run_sources_oneapi_without_handing_it_the_users_arguments(release, fakes, tmp_path):
    (tmp_path / "oneapi").mkdir()
    (tmp_path / "oneapi/setvars.sh").write_text(
        'false; echo "$unset_variable" >/dev/null; [[ $* == --force ]] && export NX2_NGL=5\n'
    )
    done = run(release / "run-nx2.sh", "--print", "--", "--port", "1", path=fakes, ONEAPI_ROOT=str(tmp_path / "oneapi"))
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[-4:] == ["-ngl", "5", "--port", "1"]


@pytest.mark.parametrize(("count", "expected"), [(0, CPU), (1, ONE), (2, ALL)])
def test_run_within_a_budget(release, fakes, count, expected):
    devices(fakes, "sycl-ls", count)
    done = run(release / "run-nx2.sh", "--budget-mib", "15000", "--print", "--", "-c", "512", path=fakes)
    assert done.returncode == 0, done.stderr
    budget = ["--override-kv", "general.tensor_variant.budget_mb=int:15000"]
    assert shlex.split(done.stdout)[3:] == [*budget, *expected, "-c", "512"]


@pytest.mark.parametrize(
    ("vram", "plan", "expected"),
    [
        ("16", "--override-kv general.tensor_variant.budget_mb=int:15550 -c 4096", ONE),
        # the plan has its split
        (
            "16,12",
            "--override-kv general.tensor_variant.budget_mb=int:26000 -c 4096 -sm layer -ts 20.5,20.5",
            ["-ngl", "999"],
        ),
    ],
)
def test_run_fitted_to_cards(release, fakes, vram, plan, expected):
    devices(fakes, "sycl-ls", 2)
    # as prune-dual would: it is asked for the engine's options, with the twin and the context
    program(fakes, "python3", f"printf '%s|' \"$@\" >&2; echo '{plan}'")
    done = run(release / "run-nx2.sh", "--vram-gib", vram, "--ctx", "4096", "--print", path=fakes)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[3:] == [*plan.split(), *expected]
    asked = f"prune-dual.py|--dual|{release / TWIN}|--vram-gib|{vram}|--ctx|4096|--engine-flags|"
    assert asked in done.stderr


def test_run_fitted_to_the_cards_that_the_engine_lists(release, fakes):
    program(fakes, "python3", "printf '%s|' \"$@\" >&2; echo '-c 4096 -dev SYCL0 -sm layer -ts 20.5,20.5'")
    engine_lists(fakes, ARC, UHD)
    done = run(release / "run-nx2.sh", "--vram-gib", "auto", "--print", path=fakes)
    assert f"|--vram-gib|auto|--engine|{fakes}/llama-server|--free|--engine-flags|" in done.stderr
    assert shlex.split(done.stdout)[3:] == shlex.split("-c 4096 -dev SYCL0 -sm layer -ts 20.5,20.5 -ngl 999")
    done = run(release / "run-nx2.sh", "--vram-gib", "auto", "--print", "--", "-dev", "SYCL0,SYCL1", path=fakes)
    assert f"|--engine|{fakes}/llama-server|--free|-dev|SYCL0,SYCL1|--engine-flags|" in done.stderr
    # sizes are given in the engine's order, one for each of its cards
    done = run(release / "run-nx2.sh", "--vram-gib", "16,12", "--print", path=fakes)
    assert (done.returncode, done.stderr) == (
        1,
        "run-nx2.sh: --vram-gib has sizes for 2 cards, but the engine lists 1: SYCL0\n",
    )
    program(fakes, "llama-server", "exit 1")
    done = run(release / "run-nx2.sh", "--vram-gib", "auto", "--print", path=fakes)
    assert "|--vram-gib|auto|--engine-flags|" in done.stderr


def test_run_says_why_nothing_fits(release, fakes):
    program(fakes, "python3", "echo 'prune-dual: does not fit' >&2; exit 1")
    done = run(release / "run-nx2.sh", "--vram-gib", "8", path=fakes)
    assert (done.returncode, done.stderr) == (1, "prune-dual: does not fit\n")
    (fakes / "python3").unlink()
    done = run(release / "run-nx2.sh", "--vram-gib", "8", path=fakes)
    assert done.returncode == 1
    assert done.stderr.startswith("run-nx2.sh: --vram-gib needs python3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget-mib", "1.5"], "--budget-mib is '1.5'"),
        (["--budget-mib"], "--budget-mib needs a value"),
        (["--budget-mib", "1", "--sm", "on"], "exclude each other"),
        (["--vram-gib", "16", "--budget-mib", "1"], "exclude each other"),
        (["--ctx", "512"], "--ctx goes with --vram-gib"),
        (["--vram-gib", "16", "--ctx", "many"], "--ctx is 'many'"),
    ],
)
def test_run_refuses(release, fakes, arguments, message):
    done = run(release / "run-nx2.sh", *arguments, path=fakes)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_run_faults(release, fakes):
    program(fakes, "llama-server", "exit 1")
    done = run(release / "run-nx2.sh", "--sm", "sideways", path=fakes)
    assert done.stderr == "run-nx2.sh: --sm is 'sideways'; it can be off, on or auto\n"
    done = run(release / "run-nx2.sh", path=fakes, NX2_MODEL="/no/such.gguf")
    assert done.returncode == 1
    assert "no model at /no/such.gguf" in done.stderr
