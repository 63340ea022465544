"""install-nx2.sh: the file that is fitted, its launcher, and when the twin may go."""

import shlex
import subprocess
import sys

import pytest

from file_state import unread
from release_shell import SHELLCHECK, TWIN, program, run

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


def test_install_to_a_name_that_begins_with_a_dash(install, fakes, tmp_path):
    command = [install, "--vram-gib", "16", "--out", "-x.gguf", "--yes"]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": str(fakes)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "-x.gguf").read_bytes() == b"GGUF fitted"
    assert (tmp_path / "run--x.sh").exists()


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


@pytest.mark.parametrize(("backend", "device"), [("vulkan", "Vulkan0"), ("sycl", "SYCL0,SYCL1"), ("cpu", "none")])
def test_install_for_one_of_the_backends(install, release, fakes, backend, device):
    (release / "prune-dual.py").write_text(PRUNE)
    lists = "\n".join(f"echo '  {name}: A card (16225 MiB, 15473 MiB free)'" for name in ("SYCL0", "SYCL1", "Vulkan0"))
    program(
        release / "build/out/bin",
        "llama-server",
        f"[[ $1 == --list-devices ]] || {{ printf '%s|' \"$@\"; exit; }}\necho 'Available devices:'\n{lists}",
    )
    done = run(install, "--vram-gib", "16", "--backend", backend, "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    started = run(release / "run-Some Model-twin-16gib.sh", path=fakes)
    assert started.stdout.endswith(f"|-dev|{device}|")
    done = run(install, "--vram-gib", "16", "--backend", "cuda", "--yes", path=fakes)
    assert (done.returncode, "install-nx2.sh: nothing was written" in done.stderr) == (1, True)
    assert "the engine lists no card for --backend cuda" in done.stderr
    done = run(install, "--backend", "cpu", "--yes", path=fakes)
    assert (
        done.stderr
        == "install-nx2.sh: --backend cpu goes with --vram-gib: there is no card whose memory could be asked for\n"
    )


def test_install_for_two_cards(install, release, fakes):
    done = run(install, "--vram-gib", "16,12", "--yes", path=fakes)
    assert done.returncode == 0, done.stderr
    assert (release / "Some Model-twin-16+12gib.gguf").exists()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://some.host/a/Fetched-twin.gguf?download=true&x=/y", "Fetched-twin-16gib.gguf"),
        ("hf://some/model/Fetched-twin.gguf@refs/pr/1", "Fetched-twin-16gib.gguf"),
        ("hf://some/model@refs/pr/1/Fetched-twin.gguf", "Fetched-twin-16gib.gguf"),
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
