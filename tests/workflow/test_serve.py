"""llama-server on the nano twin, driven by the official openai client as its users do."""

import base64
import io
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from llama_server import SECONDS, Server
from phase_twin.engine import ENVIRONMENT, override

pytestmark = pytest.mark.nano

TWIN = "Nex-N2-nano-twin.gguf"
# of 24 groups, as the engine tells them
MODES = {
    "small": (override("default", 0), {"loaded": "variant 0", "groups": 24, "promoted": 0}),
    "large": (override("default", 1), {"loaded": "variant 1", "groups": 24, "promoted": 24}),
    "budget": (override("budget_mb", 9), {"loaded": "budget 9 MiB", "groups": 24, "promoted": 2}),
}
PROMPT = "The river"
SAMPLING = {"temperature": 0.8, "seed": 7}
THOUGHT, ANSWER = "First I look, then I think.\n", "Yes.\nAnd no."


@pytest.fixture(scope="module")
def start(nano: Path, engine_bin, tmp_path_factory) -> Callable[..., Server]:
    def prepare(*arguments: str | Path, model: str = TWIN) -> Server:
        log = tmp_path_factory.mktemp("server") / "server.log"
        command = [engine_bin("llama-server"), "-m", nano / model, "-c", "2048", "-t", "2"]
        return Server([*command, *arguments], log)

    return prepare


@pytest.fixture(scope="module")
def told(start) -> dict[str, tuple[dict[str, Any], str]]:
    """What the server says of itself and what it answers, in each mode."""
    found = {}
    for name, (flags, _) in MODES.items():
        with start(*flags, "-np", "1") as server:
            reply = server.client.completions.create(model="twin", prompt=PROMPT, max_tokens=24, **SAMPLING)
            found[name] = (server.get("/props")["tensor_variants"], reply.choices[0].text)
    return found


@pytest.fixture(scope="module")
def server(start, nano) -> Iterator[Server]:
    """The large phase, with several slots and the vision tower."""
    with start(*MODES["large"][0], "-np", "4", "--mmproj", nano / "Nex-N2-nano-mmproj-F16.gguf") as server:
        yield server


@pytest.mark.parametrize("mode", MODES)
def test_the_server_tells_what_is_loaded(told, mode):
    assert told[mode][0] == MODES[mode][1]


@pytest.mark.parametrize("mode", MODES)
def test_answers_are_those_of_llama_completion(told, mode, nano, engine_bin):
    command = [engine_bin("llama-completion"), "-m", nano / TWIN, "-p", PROMPT, "-n", "24", "-no-cnv", "-t", "2"]
    command += ["--temp", SAMPLING["temperature"], "--seed", SAMPLING["seed"], "--no-display-prompt", *MODES[mode][0]]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=os.environ | ENVIRONMENT, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = told[mode][1]
    assert len(text) > 24
    # it ends its output with a line break of its own
    assert done.stdout.rstrip("\n") == text.rstrip("\n")


def test_the_phases_answer_differently(told):
    assert len({text for _, text in told.values()}) == len(MODES)


def test_a_plain_file_has_no_variants(start):
    with start(model="Nex-N2-nano-9mib.gguf") as server:
        assert "tensor_variants" not in server.get("/props")


def test_the_thought_is_told_apart_from_the_answer(server):
    reply = server.chat("Is it?", grammar=f"{THOUGHT}</think>\n\n{ANSWER}")
    assert reply.choices[0].finish_reason == "stop"
    message = reply.choices[0].message
    assert (message.reasoning_content, message.content) == (THOUGHT, ANSWER)
    reply = server.chat("Is it?", grammar=ANSWER, chat_template_kwargs={"enable_thinking": False})
    message = reply.choices[0].message
    assert (getattr(message, "reasoning_content", None), message.content) == (None, ANSWER)


def test_a_streamed_answer_is_the_same(server):
    thought = answer = ""
    chunks = list(server.chat("Is it?", stream=True, grammar=f"{THOUGHT}</think>\n\n{ANSWER}"))
    for delta in (chunk.choices[0].delta for chunk in chunks):
        thought += getattr(delta, "reasoning_content", None) or ""
        answer += delta.content or ""
    assert (thought, answer) == (THOUGHT, ANSWER)
    assert len(chunks) > 10
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_embeddings_are_refused(server):
    with pytest.raises(openai.APIStatusError, match="does not support embeddings") as error:
        server.client.embeddings.create(model="twin", input="text")
    assert error.value.status_code == 501


def test_concurrent_requests_get_their_own_answers(server):
    def ask(number: int) -> str:
        reply = server.chat(f"Say {number}.", grammar=f"</think>\n\nI say {number} times {number}.")
        return reply.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:  # twice the slots: some wait
        answers = list(pool.map(ask, range(16)))
    assert answers == [f"I say {number} times {number}." for number in range(16)]


def test_a_client_that_goes_away_does_no_harm(server):
    stream = server.chat("Talk.", stream=True, max_tokens=500)
    next(iter(stream))
    stream.close()
    assert server.chat("Is it?", grammar="</think>\n\nYes.").choices[0].message.content == "Yes."


def picture(color: tuple[int, int, int]) -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def test_an_image_is_answered(server):
    """nano's vision tower is untrained: what is checked is the path."""
    assert server.get("/props")["modalities"]["vision"] is True
    question = {"type": "text", "text": "What is this?"}
    with_image = server.chat([question, picture((200, 30, 60))], max_tokens=8, temperature=0)
    without = server.chat([question], max_tokens=8, temperature=0)
    assert with_image.usage.completion_tokens == 8
    # patches of 64 x 64 pixels, merged, and two marks around them
    assert with_image.usage.prompt_tokens - without.usage.prompt_tokens >= 4
    with pytest.raises(openai.APIStatusError, match=r"(?i)image"):
        broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm90IGFuIGltYWdl"}}
        server.chat([question, broken], max_tokens=1)
    assert server.chat("Is it?", grammar="</think>\n\nYes.").choices[0].message.content == "Yes."


def refused(server: Server) -> tuple[int, str]:
    """Exit code and messages of a server that does not start."""
    done = subprocess.run(server.command, capture_output=True, text=True, env=server.env, timeout=SECONDS)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (override("default", 2), "has no variant 2, which general.tensor_variant.default asks for"),
        (override("promote", "0,24"), "promote"),
    ],
)
def test_a_phase_that_is_not_there_is_refused(start, flags, message):
    code, said = refused(start(*flags))
    assert code == 1
    assert message in said
    assert TWIN in said


def test_a_taken_port_is_refused(server, start):
    second = start()
    second.command[-1] = str(server.port)
    code, said = refused(second)
    assert code == 1
    assert "couldn't bind" in said
    assert str(server.port) in said
    assert server.healthy()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_stream_ends_the_server(start, how):
    # a stream in which nothing comes ends with the next ping
    with start("--sse-ping-interval", "2") as server:
        stream = iter(server.chat("Talk.", stream=True, max_tokens=2000, ignore_eos=True))
        for _ in range(5):
            next(stream)
        assert server.stop(how) == 0
        try:  # the client learns of it by the end of the stream or by an error, but does not wait
            rest = len(list(stream))
        except (openai.APIError, httpx2.HTTPError):
            rest = 0
        assert rest < 1990
        assert "abort" not in server.log.lower()
