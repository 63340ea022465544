"""The nano model on the SYCL backend: the same quality as on the CPU, and a server that answers."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable

import pytest

from phase_quality import CARD_FLAGS, PHASES, TWIN, Quality
from phase_twin.arc import MODES
from phase_twin.community import read_row
from prune_dual import Gguf, Memory, Model, Settings

pytestmark = pytest.mark.sycl

LIVE = {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_STATS": "1"}
DORMANT = LIVE | MODES["dormant"]


@pytest.fixture(scope="module")
def measure(nano, engine_bin, sycl, root, tmp_path_factory):
    return Quality(root, engine_bin, sycl, tmp_path_factory.mktemp("logits")).measure


@pytest.mark.parametrize("case", PHASES, ids=PHASES.values())
@pytest.mark.parametrize("backend", [LIVE, DORMANT], ids=["live", "dormant"])
def test_quality_in_batches(measure, case, backend):
    expected, error, _ = measure(case, 2, None)
    found, _, _ = measure(case, 2, backend)
    assert abs(found - expected) < 3 * error


@pytest.mark.parametrize("case", PHASES, ids=PHASES.values())
def test_quality_token_by_token(measure, case):
    expected, error, _ = measure(case, 1, None)
    live, _, said = measure(case, 1, LIVE, ubatch=1)
    dormant, _, before = measure(case, 1, DORMANT, ubatch=1)
    assert abs(live - expected) < 3 * error
    assert abs(dormant - expected) < 3 * error
    kind = PHASES[case]
    for kernel in ("fused_experts-up", "fused_experts-down", "reorder"):
        assert re.search(rf"sycl-stats: {kernel} +{kind} +[1-9]", said), kernel
        assert not re.search(rf"sycl-stats: {kernel} +{kind}", before), kernel
    # llama.cpp reorders Q4_K itself
    theirs = "mul_mat_vec_q_id_reorder" if kind == "q4_K" else "mul_mat_vec_q_id"
    assert re.search(rf"sycl-stats: {theirs} +{kind} +[1-9]", before)
    assert not re.search(rf"sycl-stats: mul_mat_vec_q_id\w* +{kind}", said)


@pytest.fixture
def release(nano, sycl, engine_bin, tmp_path) -> Callable[..., str]:
    """Start a script of the release on the programs with the SYCL backend; what it prints is returned."""
    folder, programs = tmp_path / "release", tmp_path / "programs"
    shutil.copytree(nano / "release", folder)
    programs.mkdir()
    for name in ("llama-server", "llama-completion", "llama-perplexity", "llama-bench"):
        start, program = sycl(name)
        (programs / name).write_text(f'#!/bin/sh\nexec "{start}" "{program}" "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "llama-variant-info").symlink_to(engine_bin("llama-variant-info"))  # no backend matters to it
    env = os.environ | {"GGML_SYCL_FORCE_REORDER": "1", "NX2_BIN": str(programs)}

    def run(script: str, *arguments: str) -> str:
        done = subprocess.run([folder / script, *arguments], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("mode", ["off", "on"])
def test_the_self_test_of_a_release(release, mode):
    said = release("run-nx2.sh", "--sm", mode, "--self-test")
    assert re.match(rf"self-test passed: variant {int(mode == 'on')} on SYCL0 beside the CPU", said)


def test_a_release_measures_both_paths(release, tmp_path):
    out = tmp_path / "row.json"
    release("bench-nx2.sh", "--sm", "off", "--depths", "0", "--prompt", "16", "--gen", "4", "--out", str(out))
    row = read_row(out)
    assert (row.machine.backend, row.settings.paths) == ("SYCL", ["live", "dormant"])
    assert [figure.error for figure in row.figures] == [None] * 4


def test_layers_split_over_two_devices(nano, sycl, root):
    # not llama-perplexity: the backend frees its host memory with the wrong device at exit, where each has a platform
    command = [*sycl("llama-completion"), *CARD_FLAGS, "-m", root / TWIN, "-lv", "4", "-p", "The quick brown"]
    command += ["-n", "32", "--temp", "0", "-no-cnv"]
    said = []
    for devices in "12":
        env = os.environ | LIVE | {"SYCL_RUN_DEVICES": devices}
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert re.search(r"sycl-stats: fused_experts-up +iq3_a770 +[1-9]", done.stderr)
        assert len(set(re.findall(r"SYCL\d model buffer size", done.stderr))) == int(devices)
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].split()) > 10


@pytest.mark.parametrize("ubatch", [128, 512])
def test_memory_where_flash_attention_was_meant_to_be(nano, sycl, root, ubatch):
    # -fa auto finds out late that this build has none
    command = [*sycl("llama-completion"), "-m", root / TWIN, "-ngl", "99", "-fa", "auto", "-c", "8192", "-lv", "4"]
    command += ["-ub", str(ubatch), "--no-warmup", "-p", "x", "-n", "1", "-no-cnv"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    (logged,) = re.findall(r"SYCL0 +compute buffer size = +([0-9.]+) MiB", done.stdout + done.stderr)
    model = Model.of(Gguf.read(root / TWIN))
    counted = Memory(model, Settings(ctx=8192, ubatch=ubatch)).compute(0, model.n_blocks + 1)
    assert counted / 2**20 == pytest.approx(float(logged), rel=0.005)


def test_a_server_answers(nano, sycl, root):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*sycl("llama-server"), *CARD_FLAGS, "-m", root / TWIN, "-c", "512", "--port", str(port), "-np", "1"]
    server = subprocess.Popen(
        command, env=os.environ | LIVE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for _ in range(120):
            time.sleep(1)
            assert server.poll() is None, server.communicate()[0][-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                continue
        body = json.dumps({"prompt": "The", "n_predict": 8, "temperature": 0}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        assert answer["tokens_predicted"] == 8
        assert answer["content"].strip()
    finally:
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=60)[0]
    assert re.search(r"sycl-stats: fused_experts-up +iq3_a770 +[1-9]", said)
