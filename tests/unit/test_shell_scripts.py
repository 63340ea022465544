"""The scripts a user of the release runs, with fake programs around them."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from file_state import unread
from phase_twin.card import render, shell_safe
from phase_twin.sources import load_sources

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "release").glob("*.sh"))
TWIN = "Some Model-twin.gguf"  # a user may rename it
ENGINE = load_sources(ROOT / "config/sources.yaml").engine.model_dump()
BUILT = shlex.split(
    "llama-server llama-cli llama-completion llama-bench llama-quantize llama-imatrix llama-perplexity "
    "llama-variant-info"
)
# what the scripts call beside the programs under test
SYSTEM = shlex.split(
    "bash basename cat chmod cp cut dirname env git grep gzip id ls mkdir mv nproc readlink rm sed sha256sum tail tar "
    "touch"
)
SHELLCHECK = shutil.which("shellcheck") or str(Path(sys.executable).with_name("shellcheck"))


@pytest.fixture
def fakes(tmp_path):
    """A folder for fake programs, with links to the ordinary ones: nothing else is on the PATH."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in SYSTEM:
        (folder / name).symlink_to(shutil.which(name))
    return folder


@pytest.fixture
def release(tmp_path, fakes):
    """A release folder with the rendered scripts; its path has a space, and so has the twin's name."""
    folder = tmp_path / "a release"
    (folder / "build").mkdir(parents=True)
    for script in SCRIPTS:
        target = folder / ("build" if script.name == "build.sh" else ".") / script.name
        text = render(script.read_text(), {"twin": {"name": "@"}, "engine": ENGINE}, script.name, shell_safe)
        target.write_text(text.replace("'@'", shlex.quote(TWIN)))
        target.chmod(0o755)
    (folder / TWIN).write_bytes(b"GGUF")
    (folder / "build/llama.cpp-turbo-phase-twin.patch").write_text("")
    return folder


def work_of(release: Path) -> Path:
    """Where build.sh keeps what it fetches."""
    return release / "build" / "work"


def program(folder: Path, name: str, body: str) -> Path:
    """Put a fake program there; it never writes through a link to a real one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, path: Path, **env: str) -> subprocess.CompletedProcess:
    base = {"PATH": str(path), "HOME": str(path), "NX2_SYSFS": str(path / "no-sysfs"), "ONEAPI_ROOT": str(path / "no")}
    return subprocess.run(
        [script, *arguments], env=base | env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script, release):
    rendered = next(path for path in release.rglob(script.name))
    done = subprocess.run([SHELLCHECK, script, rendered], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_and_unknown_options(script, release, fakes):
    rendered = next(path for path in release.rglob(script.name))
    done = run(rendered, "--help", path=fakes)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    done = run(rendered, "--nope", path=fakes)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{script.name}: unknown option '--nope'")
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- run-nx2.sh

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
        ("auto", [ARC, UHD], SMALL + ONE),
        ("on", [ARC, UHD], [*LARGE, *ALL, "-ts", "11000/0"]),
        ("auto", [ARC, ARC, UHD], [*LARGE, *ALL, "-ts", "11000/11000/0"]),
        ("auto", [UHD], SMALL + CPU),
        ("auto", [ARC, UNKNOWN], LARGE + ALL),
    ],
)
def test_layers_are_split_by_free_memory_over_cards_alone(release, fakes, mode, listed, expected):
    engine_lists(fakes, *listed)
    done = run(release / "run-nx2.sh", "--sm", mode, "--print", path=fakes)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[3:] == expected


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


# ---------------------------------------------------------------- install-nx2.sh

PRUNE = """
import os, sys
args = sys.argv[1:]
if "--vram-gib" in args and args[args.index("--vram-gib") + 1] == "1":
    sys.exit("prune-dual: does not fit; the smallest --vram-gib is 14.71, or try a smaller --ctx")
if "auto" in args and not os.environ.get("CARD"):
    sys.exit("prune-dual: no graphics card was found whose memory is known; pass its size: --vram-gib 16")
print("promoted 3 of 120")
ctx = args[args.index("--ctx") + 1] if "--ctx" in args else "8192"
print(f"start the engine with: -c {ctx} -np 1 -ts 24.5,16.5")
dual, out = (args[args.index(name) + 1] for name in ("--dual", "--out"))
content = dual.encode() if "://" in dual else open(dual, "rb").read()
content += b" fitted"
assert "--resume" in args
if os.path.exists(out) and open(out, "rb").read() != content:
    sys.exit(f"prune-dual: {out}: exists already")
if "--dry-run" not in args:
    open(out, "wb").write(content)
    if os.environ.get("PRUNED"):
        open(os.environ["PRUNED"], "w").write(" ".join(args))
"""


@pytest.fixture
def install(release, fakes):
    (release / "prune-dual.py").write_text(PRUNE)
    program(fakes, "python3", f'exec {shlex.quote(sys.executable)} "$@"')
    return release / "install-nx2.sh"


def test_install(install, release, fakes):
    done = run(install, "--vram-gib", "16", "--keep-dual", "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    fitted = release / "Some Model-twin-16gib.gguf"
    assert fitted.read_bytes() == b"GGUF fitted"
    assert (release / TWIN).read_bytes() == b"GGUF"
    assert "promoted 3 of 120" in done.stdout
    launcher = release / "run-Some Model-twin-16gib.sh"
    assert str(launcher) in done.stdout
    program(release / "build/out/bin", "llama-server", "printf '%s\\0' \"$@\"")
    started = run(launcher, "--port", "80 81", "", path=fakes)
    assert started.stdout.split("\0")[:-1] == [
        *("-m", str(fitted), "-ngl", "999"),
        *("-c", "8192", "-np", "1", "-ts", "24.5,16.5"),
        *("--port", "80 81", ""),
    ]
    assert subprocess.run([SHELLCHECK, launcher], capture_output=True, text=True).stdout == ""


def test_install_elsewhere(install, fakes, tmp_path):
    (tmp_path / "dual.gguf").write_bytes(b"other")
    files = ["--dual", str(tmp_path / "dual.gguf"), "--out", str(tmp_path / "fitted.gguf")]
    done = run(install, "--vram-gib", "11.5", *files, "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fitted.gguf").read_bytes() == b"other fitted"
    assert (tmp_path / "run-fitted.sh").exists()


def test_install_for_the_cards_that_are_there(install, release, fakes):
    done = run(install, "--ctx", "32768", path=fakes, CARD="1")
    assert done.returncode == 1
    assert "What fits the cards that were found:\npromoted 3 of 120" in done.stdout
    assert done.stderr == "install-nx2.sh: nothing was written; pass --yes to go on without a question\n"
    done = run(install, "--ctx", "32768", "--yes", path=fakes, CARD="1")
    assert done.returncode == 0, done.stderr
    assert (release / "Some Model-twin-fitted.gguf").exists()
    program(release / "build/out/bin", "llama-server", "printf '%s\\0' \"$@\"")
    started = run(release / "run-Some Model-twin-fitted.sh", path=fakes)
    assert started.stdout.split("\0")[4:6] == ["-c", "32768"]


def test_install_for_two_cards(install, release, fakes):
    done = run(install, "--vram-gib", "16,12", "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    assert (release / "Some Model-twin-16+12gib.gguf").exists()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://some.host/a/Fetched-twin.gguf?download=true&x=/y", "Fetched-twin-16gib.gguf"),
        ("hf://some/model/Fetched-twin.gguf@refs/pr/1", "Fetched-twin-16gib.gguf"),
        ("hf://some/model/folder/odd name.gguf", "odd name-16gib.gguf"),
    ],
)
def test_install_passes_an_address_through(install, release, fakes, tmp_path, address, name):
    """Without the twin on this disk; the file comes to the script's folder, wherever it is called from."""
    (release / TWIN).unlink()
    done = run(install, "--vram-gib", "16", "--dual", address, "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    assert (release / name).read_bytes() == address.encode() + b" fitted"
    assert (release / f"run-{name.removesuffix('.gguf')}.sh").exists()
    assert "The twin stays" not in done.stdout
    done = run(install, "--vram-gib", "16", "--dual", address, "--out", str(tmp_path / "x.gguf"), "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.gguf").exists()


def test_install_names_the_packages_that_fetching_needs(install, fakes):
    program(fakes, "python3", f'[[ $2 == *huggingface_hub* ]] && exit 1; exec {shlex.quote(sys.executable)} "$@"')
    done = run(install, "--vram-gib", "16", "--dual", "hf://a/b/c.gguf", path=fakes)
    assert done.returncode == 1
    assert "run: python3 -m pip install gguf numpy requests huggingface_hub" in done.stderr
    done = run(install, "--vram-gib", "16", "--yes", path=fakes)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was written"),
        (["--vram-gib", "16,", "--yes"], "--vram-gib is '16,'; it must be a number"),
        (["--vram-gib", "16", "--ctx", "8k", "--yes"], "--ctx is '8k'; it must be a number of tokens"),
        (["--vram-gib", "16GB", "--yes"], "--vram-gib is '16GB'; it must be a number"),
        (["--vram-gib", "16", "--dual", "/no/such.gguf"], "no twin at /no/such.gguf"),
        (
            ["--vram-gib", "16", "--out", "/no/such/folder/x.gguf"],
            "the folder of /no/such/folder/x.gguf does not exist",
        ),
        (["--vram-gib", "16"], "nothing was written; pass --yes"),
        (["--vram-gib", "1", "--yes"], "nothing was written"),
        (["--vram-gib"], "--vram-gib needs a value"),
    ],
)
def test_install_faults(install, release, fakes, arguments, message):
    before = sorted(release.iterdir())
    done = run(install, *arguments, path=fakes)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"install-nx2.sh: {message}")
    assert sorted(release.iterdir()) == before


@pytest.mark.parametrize("name", ["Some Model-twin-16gib.gguf", "run-Some Model-twin-16gib.sh"])
def test_install_keeps_what_is_there(install, release, fakes, name):
    (release / name).write_bytes(b"mine")
    before = sorted(release.iterdir())
    done = run(install, "--vram-gib", "16", "--yes", path=fakes)
    assert done.returncode == 1
    assert name in done.stderr
    assert (release / name).read_bytes() == b"mine"
    assert sorted(release.iterdir()) == before


def test_install_again_does_nothing(install, release, fakes):
    launcher = release / "run-Some Model-twin-16gib.sh"
    assert run(install, "--vram-gib", "16", "--yes", path=fakes).returncode == 0
    first = unread(launcher)
    done = run(install, "--vram-gib", "16", "--yes", path=fakes)
    assert (done.returncode, unread(launcher)) == (0, first)
    done = run(install, "--vram-gib", "16", "--ctx", "512", "--yes", path=fakes)
    assert "starts something else" in done.stderr
    assert unread(launcher) == first


DELETE = ("--vram-gib", "16", "--delete-dual", "--yes")


def test_install_deletes_the_twin_when_the_file_was_verified_and_loaded(install, release, fakes, tmp_path):
    twin, fitted = release / TWIN, release / "Some Model-twin-16gib.gguf"
    loaded = tmp_path / "loaded"
    # the twin must be there while the engine loads the fitted file
    body = f"[[ -f {shlex.quote(str(twin))} ]] && printf '%s|' \"$@\" >{shlex.quote(str(loaded))}"
    program(release / "build/out/bin", "llama-completion", body)
    done = run(install, *DELETE, path=fakes, PRUNED=str(tmp_path / "pruned"))
    assert done.returncode == 0, done.stderr
    assert "--verify" in (tmp_path / "pruned").read_text().split()
    assert loaded.read_text().startswith(f"-m|{fitted}|-ngl|999|-c|8192|")
    assert not twin.exists()
    assert f"Deleted: {twin}" in done.stdout
    assert fitted.exists()


def test_install_keeps_the_twin_when_the_file_does_not_load(install, release, fakes):
    program(release / "build/out/bin", "llama-completion", "echo 'out of memory' >&2; exit 1")
    done = run(install, *DELETE, path=fakes)
    assert done.returncode == 1
    assert "out of memory\ninstall-nx2.sh: the engine does not load" in done.stderr
    assert (release / TWIN).exists()
    # with what was wrong put right, it goes on
    program(release / "build/out/bin", "llama-completion", "exit 0")
    assert run(install, *DELETE, path=fakes).returncode == 0
    assert not (release / TWIN).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--delete-dual loads the fitted file first and there is no llama-completion; run build/build.sh"),
        (["--keep-dual"], "--keep-dual and --delete-dual exclude each other"),
        (["--dual", "https://some.host/x.gguf"], "--delete-dual is for a twin on this disk"),
        (["--dual", "link.gguf"], "--delete-dual: link.gguf is a link; pass the file itself: --dual "),
    ],
)
def test_install_refuses_to_delete(install, release, fakes, tmp_path, arguments, message):
    (tmp_path / "link.gguf").symlink_to(release / TWIN)
    arguments = [str(tmp_path / word) if word == "link.gguf" else word for word in arguments]
    before = sorted(release.iterdir())
    done = run(install, *DELETE, *arguments, path=fakes)
    assert done.returncode == 1
    assert done.stderr.replace(f"{tmp_path}/link", "link").startswith(f"install-nx2.sh: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(release.iterdir()) == before


def test_install_without_gguf_says_what_to_install(install, fakes):
    program(fakes, "python3", f'[[ $2 == *gguf* ]] && exit 1; exec {shlex.quote(sys.executable)} "$@"')
    done = run(install, "--vram-gib", "16", path=fakes)
    assert done.returncode == 1
    assert "run: python3 -m pip install gguf numpy" in done.stderr
    (fakes / "python3").unlink()
    done = run(install, "--vram-gib", "16", "--yes", path=fakes)
    assert done.stderr.startswith("install-nx2.sh: python3 is missing; install Python 3.11")


# ---------------------------------------------------------------- build.sh

PATCH = """\
--- a/src/type.c
+++ b/src/type.c
@@ -1 +1 @@
-int old;
+int {};
"""
CMAKE = """
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
    assert "-DLLAMA_BUILD_NUMBER=9550" in configure
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
    assert [line.split()[0] for line in done.stderr.splitlines()[1:-1]] == needs
    for name in (*needs, "c++"):
        program(fakes, name.replace("/", "-"), "echo /opt/some")
    done, calls = build(f"--{backend}")
    assert done.returncode == 0, done.stderr
    assert flag in calls[0].split()
    assert "SYCL" not in calls[0]
    assert "Experts in 3 bits are computed on the CPU" in done.stdout
    assert build(f"--{backend}")[1] == []
    # another backend is another build
    done, calls = build("--cpu")
    assert (done.returncode, len(calls)) == (0, 2)
    assert "Experts" not in done.stdout


def test_build_for_one_backend_at_a_time(build):
    done, calls = build("--cuda", "--vulkan")
    assert (done.returncode, calls) == (1, [])
    assert done.stderr == "build.sh: --cuda and --vulkan exclude each other\n"


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
