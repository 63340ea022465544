"""The nano release as its users have it: alone in a folder, with the engine and a Python beside it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import HubServer
from llama_server import Server
from phase_twin.community import read_row
from prune_dual import VARIANT_PREFIX, Gguf, Twin, select

pytestmark = pytest.mark.nano

TWIN = "Nex-N2-nano-twin.gguf"
# a card on which some of the groups fit in their large form
FIT = ("--vram-gib", "0.518", "--ctx", "512")


@pytest.fixture
def release(nano, engine_bin, tmp_path) -> tuple[Path, dict[str, str]]:
    """The release as downloaded, alone in a folder, and the environment that finds engine and Python."""
    folder = tmp_path / "my models"
    shutil.copytree(nano / "release", folder)
    # a Python with gguf, as a user has who followed the card
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return folder, os.environ | {"PATH": path, "NX2_BIN": str(engine_bin("llama-completion").parent)}


def run_release(release, *command: str, **env: str) -> str:
    folder, base = release
    done = subprocess.run(
        [folder / command[0], *command[1:]], env=base | env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


GENERATE = ("-lv", "4", "-p", "The", "-n", "4", "--temp", "0", "-no-cnv")


def test_the_release_starts_what_fits(release):
    said = run_release(release, "run-nx2.sh", *FIT, "--", "-ub", "64", *GENERATE, NX2_TOOL="llama-completion")
    assert re.search(r"24 groups, budget \d+ MiB, \d+ promoted", said)
    assert "n_ctx = 512" in re.sub(r" +", " ", said)
    said = run_release(release, "run-nx2.sh", "--budget-mib", "9", "--", *GENERATE, NX2_TOOL="llama-completion")
    assert re.search(r"24 groups, budget 9 MiB, 2 promoted", said)


def test_the_self_test_finds_a_card_that_computes_something_else(release, engine_bin, tmp_path):
    """Where the "card" is the CPU: as it is, then with the weights that a kernel reads which takes the next expert."""
    folder, env = release
    damaged = tmp_path / "damaged.gguf"
    shutil.copyfile(folder / TWIN, damaged)
    with open(damaged, "r+b") as file:
        for tensor in Gguf.read(damaged).tensors:
            if tensor.name.endswith("ffn_down_exps.weight"):
                data = tensor.data.read()
                expert = len(data) // tensor.shape[2]
                file.seek(tensor.data.offset)
                file.write(data[expert:] + data[:expert])

    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("llama-server", "llama-completion"):
        (programs / name).symlink_to(engine_bin(name))
    wrapper = programs / "llama-perplexity"
    swap = f"""[[ " $* " != *' --kl-divergence '* ]] || set -- "${{@/#*twin.gguf/{damaged}}}\""""
    for swapped, code in ((":", 0), (swap, 2)):
        wrapper.write_text(f'#!/usr/bin/env bash\n{swapped}\nexec {engine_bin("llama-perplexity")} "$@"\n')
        wrapper.chmod(0o755)
        done = subprocess.run(
            [folder / "run-nx2.sh", "--self-test"], env=env | {"NX2_BIN": str(programs)}, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stdout.startswith(f"self-test {'passed' if code == 0 else 'failed'}: variant 0 on the CPU")


def test_the_release_measures_itself(release):
    """Both phases in turns, packed and as in the file; the row is one that could be sent."""
    folder, _ = release
    out = folder / "row.json"
    short = ("--depths", "0,64", "--prompt", "16", "--gen", "4", "--threads", "1")
    run_release(release, "bench-nx2.sh", *short, "--out", str(out))
    row = read_row(out)
    assert [(phase.variant, phase.groups, phase.promoted) for phase in row.phases] == [(0, 24, 0), (1, 24, 24)]
    twin = Twin.read(folder / TWIN)
    assert [phase.bytes for phase in row.phases] == [select(twin, variant=n).selected_bytes for n in (0, 1)]
    assert f"{row.file.sha256}  {TWIN}\n" in (folder / "SHA256SUMS").read_text()
    assert (row.file.name, row.machine.backend, row.settings.paths) == ("Nex-N2-nano", "CPU", ["live", "dormant"])
    assert (row.settings.tests, row.settings.n_threads) == (["pp16", "tg4"], 1)
    assert not [figure for figure in row.figures if figure.error]
    assert "/" not in out.read_text()


def test_the_release_is_fitted_from_an_address(release, nano):
    folder, _ = release
    twin = folder / TWIN
    with HubServer() as hub:
        hub.files[f"files/{twin.name}"] = twin.read_bytes()
        hub.files["files/manifest.json"] = (folder / "manifest.json").read_bytes()
        twin.unlink()
        said = run_release(release, "install-nx2.sh", "--dual", f"{hub.url}/files/{twin.name}", *FIT, "--yes")
        sent = sum(request.sent for request in hub.gets(twin.name))
    assert "not verified" not in said
    (fitted,) = folder.glob(f"{Path(TWIN).stem}-*.gguf")
    # the file, and the twin's head for two looks: the dry run and the fit
    assert sent < fitted.stat().st_size + 2 * (Gguf.read(nano / twin.name).data_start + 2**20)
    assert not [key for key in Gguf.read(fitted).kv if key.startswith(VARIANT_PREFIX)]
    said = run_release(release, f"run-{fitted.stem}.sh", *GENERATE, NX2_TOOL="llama-completion")
    assert re.search(r"n_ctx += 512", said)


def test_released_patch_applies_to_the_base(nano, root, tmp_path):
    tree = tmp_path / "base"
    shutil.copytree(root / "resources/engine/base", tree, symlinks=True)
    patch = nano / "release/build/llama.cpp-turbo-phase-twin.patch"
    done = subprocess.run(["git", "apply", "--check", patch], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_from_the_download_to_a_chat(release, tmp_path):
    """Verify, install from the disk and from an address, start both phases and the fitted file, talk to each."""
    folder, env = release
    files = run_release(release, "prune-dual.py", "verify")
    assert re.search(r"(\d+) of \1 files are as released", files)

    run_release(release, "install-nx2.sh", *FIT, "--out", str(folder / "local.gguf"), "--yes")
    with HubServer() as hub:
        for name in (TWIN, "manifest.json"):
            hub.files[f"files/{name}"] = (folder / name).read_bytes()
        address = ("--dual", f"{hub.url}/files/{TWIN}")
        run_release(release, "install-nx2.sh", *address, *FIT, "--out", str(folder / "fetched.gguf"), "--yes")
    assert (folder / "fetched.gguf").read_bytes() == (folder / "local.gguf").read_bytes()

    loaded = []
    for command in (
        ["run-nx2.sh", "--sm", "off", "--", "-c", "1024"],
        ["run-nx2.sh", "--sm", "on", "--", "-c", "1024"],
        ["run-local.sh"],
        ["run-fetched.sh"],
    ):
        with Server([folder / command[0], *command[1:]], tmp_path / "server.log", env) as server:
            loaded.append(server.get("/props").get("tensor_variants", {}).get("loaded"))
            message = server.chat("Who are you?", grammar="I am asked.\n</think>\n\nA twin.").choices[0].message
            assert (message.reasoning_content, message.content) == ("I am asked.\n", "A twin.")
    assert loaded == ["variant 0", "variant 1", None, None]
    assert run_release(release, "prune-dual.py", "verify") == files
