"""Fused operations of one token on the SYCL backend: the same text and logits as without them, in fewer launches."""

import functools
import os
import re
import subprocess

import pytest

from llama_server import Server
from phase_quality import CARD_FLAGS as FLAGS
from phase_quality import TEXT, TWIN
from phase_twin.engine import override
from trace_sycl import count_calls

pytestmark = [pytest.mark.sycl, pytest.mark.nano]

LIVE = {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_STATS": "1"}
OFF = LIVE | {"GGML_FUSION_OFF": "all"}
PROMPT = "The river is as long as the road that"

# the small model has 6 delta nets and 2 attention layers: how often each fusion runs for a token
CALLS = {
    # before each layer's mixer and its experts, and before the output
    "norm": 17,
    # 4 products of a delta net, 3 of attention; output and residual
    "mat-vecs": 16,
    "conv": 6,
    "delta-net": 6,
    "gated-norm": 6,
    "heads": 2,
    "gated-attention": 2,
    "router": 8,
    "experts-up": 8,
    "experts-down": 8,
}
# launches of a token that each saves
SAVED = {
    "norm": 16,
    "mat-vecs": 60,
    "conv": 48,
    "delta-net": 6,
    "gated-norm": 12,
    "heads": 10,
    "gated-attention": 4,
    "router": 8,
    "experts-up": 32,
    "experts-down": 24,
}
LAUNCHES = 104  # 340 without


@pytest.fixture(scope="module")
def complete(nano, sycl, root):
    def run(tokens: int, env: dict[str, str], *more: str, phase: int = 0) -> subprocess.CompletedProcess[str]:
        command = [*sycl("llama-completion"), *FLAGS, "-m", root / TWIN, "-p", PROMPT, "-n", str(tokens), "--temp", "0"]
        command += ["-no-cnv", "--ignore-eos", "--no-warmup", "-t", "1", *override("default", phase), *more]
        done = subprocess.run(
            list(map(str, command)), env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    return run


def counted(said: str) -> dict[str, int]:
    """Calls per kernel, of all types."""
    calls: dict[str, int] = {}
    for name, count in re.findall(r"sycl-stats: (\S+) +\S+ +(\d+) calls", said):
        calls[name] = calls.get(name, 0) + int(count)
    return calls


def fusions(said: str) -> dict[str, int]:
    """Calls per fusion; experts count one for each of their two types."""
    found = {name.removeprefix("fused_"): calls for name, calls in counted(said).items() if name.startswith("fused_")}
    return {name: calls // 2 if name in ("experts-up", "experts-down") else calls for name, calls in found.items()}


@pytest.mark.parametrize("phase", [0, 1])
def test_the_same_text(complete, phase):
    fused, alone = (complete(256, env, "-c", "512", phase=phase) for env in (LIVE, OFF))
    assert fused.stdout == alone.stdout
    assert len(fused.stdout.split()) > 50
    assert not fusions(alone.stderr)


@pytest.fixture(scope="module")
def of_a_token(complete):
    """Launches of one token and how often each fusion ran for it, with the named fusions off."""

    @functools.cache
    def run(off: str) -> tuple[int, dict[str, int]]:
        env = LIVE | {"GGML_FUSION_OFF": off, "SYCL_UR_TRACE": "2"}
        few, more = (done.stdout + done.stderr for done in (complete(tokens, env, "-c", "512") for tokens in (3, 4)))
        before = fusions(few)
        launches = count_calls(more)["kernels"] - count_calls(few)["kernels"]
        return launches, {name: calls - before.get(name, 0) for name, calls in fusions(more).items()}

    return run


def test_each_fusion_runs_and_can_be_switched_off(of_a_token):
    _, ran = of_a_token("none")
    assert {name: calls for name, calls in ran.items() if name in CALLS} == CALLS
    for name in CALLS:
        assert name not in of_a_token(name)[1]
    # the experts without the shared one
    _, apart = of_a_token("experts-up,experts-down")
    assert (apart["swiglu"], apart["expert-sum"]) == (8, 8)


def test_launches_that_each_fusion_saves(of_a_token):
    launches, _ = of_a_token("none")
    assert launches == LAUNCHES
    assert {name: of_a_token(name)[0] - launches for name in SAVED} == SAVED


@pytest.mark.parametrize("phase", [0, 1])
def test_logits_agree(nano, sycl, root, tmp_path, phase):
    base = tmp_path / "logits"
    command = [*sycl("llama-perplexity"), *FLAGS, "-m", root / TWIN, "-c", "256", "-b", "512", "-ub", "1", "-t", "1"]
    command += ["--chunks", "1", "-f", root / TEXT, "--kl-divergence-base", base, *override("default", phase)]
    for env, flags in ((LIVE, ()), (OFF, ("--kl-divergence",))):
        done = subprocess.run([*command, *flags], env=os.environ | env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    (mean,) = re.findall(r"Mean +KLD: +([-\d.]+) ±", done.stdout)
    assert float(mean) <= 1e-6


def test_several_tokens_at_once(nano, sycl, root, tmp_path):
    # experts are read once for all tokens that chose them; rounding to 8 bits makes small differences larger
    base = tmp_path / "logits"
    command = [*sycl("llama-perplexity"), *FLAGS, "-m", root / TWIN, "-c", "256", "-b", "512", "-t", "1"]
    command += ["--chunks", "1", "-f", root / TEXT, "--kl-divergence-base", base]
    said = ""
    for size, flags in ((1, ()), (4, ("--kl-divergence",))):
        done = subprocess.run(
            [*command, "-ub", str(size), *flags], env=os.environ | LIVE, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said = done.stdout + done.stderr
    (mean,) = re.findall(r"Mean +KLD: +([-\d.]+) ±", said)
    assert float(mean) <= 0.01
    assert counted(said)["moe_gate_up_swiglu_grouped"] > 0


def test_a_prompt_of_more_than_a_batch(complete, root, tmp_path):
    # without flash attention, whose kernels this build leaves out, the CPU device ends at 2,048 tokens
    prompt = tmp_path / "prompt.txt"
    prompt.write_text((root / TEXT).read_text()[:2_400])
    fused, alone = (complete(16, env, "-c", "1024", "-f", prompt) for env in (LIVE, OFF))
    assert fused.stdout == alone.stdout
    (tokens,) = re.findall(r"prompt eval time = .* / +(\d+) tokens", fused.stderr)
    assert 600 < int(tokens) < 900


def test_a_session_is_taken_up(complete, tmp_path):
    # saved fused, taken up fused and not: the state of the delta nets is the same
    said = []
    for env in (LIVE, OFF):
        path = tmp_path / f"session-{len(said)}"
        complete(16, env, "-c", "256", "--prompt-cache", path, "--prompt-cache-all")
        said.append(complete(16, LIVE, "-c", "256", "--prompt-cache", path).stdout)
    assert said[0] == said[1]


def test_slots_of_a_server(nano, sycl, root, tmp_path):
    # one after the other, each in a slot of its own: the state of each is another row
    command = [*sycl("llama-server"), *FLAGS, "-m", root / TWIN, "-c", "1024", "-np", "4", "--no-warmup", "-t", "1"]
    prompts = ["The river", "A house that", "In winter the", "She said"]

    def answers(env: dict[str, str], name: str) -> list[str]:
        with Server(command, tmp_path / name, os.environ | env) as server:
            ask = server.client.completions.create
            replies = [ask(model="twin", prompt=prompt, max_tokens=24, temperature=0) for prompt in prompts]
        slots = re.findall(r"id +(\d) \| task \d+ \| stop processing", server.log)
        assert sorted(slots) == ["0", "1", "2", "3"]
        return [reply.choices[0].text for reply in replies]

    fused = answers(LIVE, "fused.log")
    assert fused == answers(OFF, "alone.log")
    assert len(set(fused)) == 4
