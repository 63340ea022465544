"""A running llama-server changes its phase: what it answers then, what goes on meanwhile, what it refuses."""

import json
import random
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llama_server import SECONDS, Server
from pack_twin import variant_kv
from phase_twin.engine import override
from prune_dual import (
    IQ3_A770_R,
    IQ3_A770_R_BYTES,
    NESTED,
    TYPE_KEYS,
    VARIANT_PREFIX,
    Span,
    Tensor,
    Twin,
    type_kv,
    write_gguf,
)

pytestmark = [pytest.mark.engine, pytest.mark.nano]

PROMPT = "The river is as long as the road that"
GROUPS = 24
# ranks that are promoted
STATES = ["", f"0-{GROUPS - 1}", "0-5,9"]
# pages of the file, used where they are; else experts are packed for this CPU
IN_PLACE = ("--no-repack",)


def nest(source: Path, out: Path) -> Path:
    """A nested twin with the bases of another and planes at random: every plane is a valid one."""
    twin = Twin.read(source)
    noise = out.with_suffix(".noise")
    kept, offset = [*twin.phase(0)], 0
    for name in twin.promote_order:
        base = twin.groups[name][0]
        nbytes = base.n_elements // 256 * IQ3_A770_R_BYTES
        kept.append(Tensor(f"{name}.r1", base.shape, IQ3_A770_R, Span(noise, offset, nbytes)))
        offset += nbytes
    noise.write_bytes(random.Random(1).randbytes(offset))
    kv = [kv for kv in twin.gguf.kv.values() if not kv.name.startswith(VARIANT_PREFIX) and kv.name not in TYPE_KEYS]
    kv += type_kv(tensor.type for tensor in kept)
    kv += variant_kv(NESTED, 2, 0, 0, twin.promote_order, twin.promote_tie)
    write_gguf(out, kv, kept, alignment=twin.gguf.alignment)
    return out


@pytest.fixture(scope="module")
def twins(nano, tmp_path_factory) -> dict[str, Path]:
    siblings = nano / "Nex-N2-nano-twin.gguf"
    return {"siblings": siblings, "nested": nest(siblings, tmp_path_factory.mktemp("elastic") / "nested.gguf")}


@pytest.fixture(scope="module")
def start(engine_bin, tmp_path_factory) -> Callable[..., Server]:
    def prepare(model: Path, *flags: str | Path, endpoint: bool = True) -> Server:
        log = tmp_path_factory.mktemp("server") / "server.log"
        command = [engine_bin("llama-server"), "-m", model, "-c", "2048", "-t", "1", "-fit", "off"]
        return Server([*command, *(["--variants-endpoint"] if endpoint else []), *flags], log)

    return prepare


def post(server: Server, path: str, body: Any, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer; text is sent as it is."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=SECONDS) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def change(server: Server, **body: Any) -> dict[str, Any]:
    status, told = post(server, "/tensor-variants", body)
    assert status == 200, told
    assert server.get("/props")["tensor_variants"] == told
    return told


def probe(server: Server) -> Any:
    """Tokens and the log-probabilities of many of them, computed anew."""
    body = {"prompt": PROMPT, "n_predict": 4, "temperature": 0, "n_probs": 50, "cache_prompt": False}
    status, reply = post(server, "/completion", body)
    assert status == 200, reply
    return reply["completion_probabilities"]


@pytest.mark.parametrize(("kind", "flags"), [("siblings", ()), ("nested", IN_PLACE)])
def test_a_change_is_a_restart(start, twins, kind, flags):
    """test-variant-change does this for more states and buffers."""
    expected = []
    for state in STATES:
        with start(twins[kind], *flags, *override("promote", state), endpoint=False) as server:
            expected.append(probe(server))
    assert len({json.dumps(answer) for answer in expected}) == len(STATES)
    with start(twins[kind], *flags) as server:
        assert probe(server) == expected[0]
        for number, when in ((2, "now"), (1, "idle"), (0, "now"), (1, "now"), (2, "idle")):
            assert change(server, promote=STATES[number], when=when)["promote"] == STATES[number]
            assert probe(server) == expected[number]


def test_each_way_to_choose(start, twins):
    twin = Twin.read(twins["nested"])
    low, high = (sum(tensor.nbytes for tensor in twin.phase(0)), sum(tensor.nbytes for tensor in twin.gguf.tensors))
    with start(twins["nested"], *IN_PLACE) as server:
        told = change(server, phase=1)
        assert (told["loaded"], told["promoted"], told["changed"]) == ("variant 1", GROUPS, GROUPS)
        assert (told["bytes"], told["bytes_read"]) == (high, high - low)  # the planes and nothing else
        told = change(server, phase=0)
        assert (told["promoted"], told["bytes"], told["bytes_read"]) == (0, low, 0)
        budget = -(-(low + high) // (2 << 20))
        told = change(server, budget_mb=budget)
        assert told["loaded"] == f"budget {budget} MiB"
        assert low < told["bytes"] <= budget << 20
        # a machine with so much: the reserve of 0.6 GiB, caches and compute buffers go off
        told = change(server, vram_gib=0.61)
        assert told["promoted"] == 0
        told = change(server, vram_gib=8)
        assert (told["promoted"], told["changed"]) == (GROUPS, GROUPS)
        assert told["seconds"] < SECONDS


def test_a_conversation_goes_on(start, twins):
    """Tokens that are there stay: a change between two turns costs no prompt."""
    with start(twins["nested"], "-np", "1") as server:
        text = PROMPT
        for number, state in enumerate([*STATES, STATES[0]]):
            change(server, promote=state)
            _, reply = post(server, "/completion", {"prompt": text, "n_predict": 8, "temperature": 0})
            if number:
                assert reply["timings"]["cache_n"] >= 8
            text += reply["content"] + " and"
        # unless it is said
        change(server, phase=1, cache="clear")
        _, reply = post(server, "/completion", {"prompt": text, "n_predict": 1})
        assert reply["timings"]["cache_n"] == 0


@pytest.mark.parametrize("when", ["now", "idle"])
def test_streams_lose_nothing(start, twins, when):
    """More clients than slots, and changes meanwhile: every stream has all of its tokens."""
    clients, rounds, tokens = 6, 3, 20

    def talk(seed: int) -> list[int]:
        lengths = []
        for turn in range(rounds):
            options = {"ignore_eos": True, "seed": seed, "return_tokens": True}
            prompt = f"{PROMPT} {seed} {turn}"
            stream = server.client.completions.create(
                model="twin", prompt=prompt, max_tokens=tokens, stream=True, extra_body=options
            )
            *_, last = stream
            assert last.choices[0].finish_reason == "length"
            lengths.append(last.usage.completion_tokens)
        return lengths

    with start(twins["nested"], "-np", "4") as server, ThreadPoolExecutor(clients) as pool:
        streams = [pool.submit(talk, seed) for seed in range(clients)]
        changes = 0
        while not all(stream.done() for stream in streams):
            changes += 1
            change(server, phase=changes % 2, when=when)
        assert [stream.result() for stream in streams] == [[tokens] * rounds] * clients
    assert changes >= 3


REFUSED = [
    ("{", "parse error"),
    ([], "expected an object"),
    ({}, "one of"),
    ({"phase": 0, "budget_mb": 9}, "one of"),
    ({"phase": 2}, "no variant 2"),
    ({"phase": -1}, "the number of a variant"),
    ({"phase": "1"}, "the number of a variant"),
    ({"budget_mb": 0}, "more than 0"),
    ({"vram_gib": -1}, "more than 0"),
    ({"promote": f"0-{GROUPS}"}, "rank out of range"),
    ({"promote": 3}, "a string of ranks"),
    ({"phase": 1, "when": "soon"}, "now"),
    ({"phase": 1, "cache": 0}, "clear"),
    ({"phase": 1, "more": 0}, 'unknown "more"'),
]


def test_what_is_refused_changes_nothing(start, twins):
    with start(twins["siblings"], *override("promote", "3"), "--api-key", "secret") as server:

        def ask(body: Any, key: str | None = "secret") -> tuple[int, str]:
            status, told = post(server, "/tensor-variants", body, key)
            return status, json.dumps(told)

        for body, message in REFUSED:
            status, said = ask(body)
            assert status == 400, body
            assert message in said.replace('\\"', '"')
        for key in (None, "wrong"):
            assert ask({"phase": 1}, key)[0] == 401
        request = urllib.request.Request(f"{server.url}/props", headers={"Authorization": "Bearer secret"})
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            told = json.load(reply)
        assert told["endpoint_variants"] is True
        assert told["tensor_variants"]["promote"] == "3"


def test_it_is_off_unless_asked_for(start, twins, nano):
    with start(twins["siblings"], endpoint=False) as server:
        status, told = post(server, "/tensor-variants", {"phase": 1})
        assert (status, "--variants-endpoint" in json.dumps(told)) == (501, True)
        assert server.get("/props")["endpoint_variants"] is False
    with start(nano / "Nex-N2-nano-9mib.gguf") as server:
        status, told = post(server, "/tensor-variants", {"phase": 1})
        assert (status, "no tensor variants" in json.dumps(told)) == (501, True)
        assert "tensor_variants" not in server.get("/props")


def test_a_file_that_changed_is_not_read(start, twins, tmp_path):
    copy = shutil.copy(twins["siblings"], tmp_path / "copy.gguf")
    with start(copy, "--load-mode", "none") as server:
        before, answer = server.get("/props")["tensor_variants"], probe(server)
        with open(copy, "r+b") as file:
            file.truncate(Path(copy).stat().st_size - 100_000)
        for when in ("now", "idle"):
            status, told = post(server, "/tensor-variants", {"phase": 1, "when": when})
            assert status == 500
            assert "has changed since it was loaded" in told["error"]["message"]
            assert "the model is as it was" in told["error"]["message"]
        assert server.get("/props")["tensor_variants"] == before
        assert probe(server) == answer


def test_a_slot_knows_its_phase(start, twins, tmp_path):
    flags = ("-np", "1", "--slot-save-path", f"{tmp_path}/")
    with start(twins["nested"], *flags) as server:

        def slot(action: str, **body: str) -> tuple[int, str]:
            status, told = post(server, f"/slots/0?action={action}", {"filename": "slot", **body})
            return status, json.dumps(told)

        change(server, promote=STATES[2])
        post(server, "/completion", {"prompt": PROMPT, "n_predict": 1})
        assert slot("save")[0] == 200
        assert (tmp_path / "slot.variants").read_text() == f"{STATES[2]}\n"
        assert slot("restore")[0] == 200
        change(server, promote=STATES[1])
        status, said = slot("restore")
        assert status == 400
        assert "made with the tensor variants" in said
        assert slot("restore", variants="any")[0] == 200


def test_it_takes_no_more_memory_with_time(start, twins):
    def resident(server: Server) -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    with start(twins["nested"], "-np", "1") as server:
        for number in range(10):
            change(server, phase=number % 2)
        probe(server)
        change(server, phase=0)
        before = resident(server)
        for number in range(100):
            change(server, phase=(number + 1) % 2)
        probe(server)
        # KiB: the heap may grow a little, but each step up that stayed would be 2 MiB
        assert resident(server) - before < 8192


def test_a_sleep_keeps_what_was_chosen(start, twins):
    with start(twins["nested"], "--sleep-idle-seconds", "1") as server:
        change(server, promote=STATES[2])
        answer = probe(server)
        end = time.monotonic() + SECONDS
        while not server.get("/props")["is_sleeping"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert probe(server) == answer
        assert server.get("/props")["tensor_variants"]["promote"] == STATES[2]


@pytest.mark.parametrize(("reserve", "begin", "end"), [(1, 0, GROUPS), (10**6, 1, 0)])
def test_by_itself_it_follows_the_memory(start, twins, reserve, begin, end):
    """With little to be left to others it loads all, with more than there is, nothing."""
    flags = ("--elastic", "--elastic-reserve", str(reserve), "--elastic-dwell", "1", "--metrics")
    with start(twins["nested"], *flags, *override("default", begin), endpoint=False) as server:
        until = time.monotonic() + SECONDS
        while (told := server.get("/props")["tensor_variants"])["promoted"] != end:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert told["changed"] == GROUPS
        probe(server)
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=SECONDS) as reply:
            assert "llamacpp:tensor_variant_changes_total 1\n" in reply.read().decode()
        assert "MiB of memory are free" in server.log


def test_a_signal_during_changes_ends_the_server(start, twins):
    with start(twins["siblings"]) as server, ThreadPoolExecutor(1) as pool:

        def go_on() -> int:
            number = 0
            try:
                while True:
                    number += 1
                    post(server, "/tensor-variants", {"phase": number % 2, "when": "now"})
            except (OSError, ValueError):  # the server is gone
                return number

        changes = pool.submit(go_on)
        time.sleep(0.3)
        assert server.stop(signal.SIGTERM) == 0
        assert changes.result(SECONDS) > 1
        assert "abort" not in server.log.lower()
