"""What comes from configuration, files and servers is data: never a command, a path, or a place to send a token to."""

import ast
import re
from pathlib import Path

import httpx2
import pytest

import gguf_files
from gguf_files import IQ3_A770, Q4_K, expert
from hub_server import HubServer
from pack_twin import pack
from phase_twin import fetch
from phase_twin.errors import UserError
from phase_twin.fetch import Pin, new_client
from phase_twin.sources import Text
from prune_dual import Gguf, Manifest, Twin, hash_gguf, prune, select
from small_run import ROOT
from verify_twin import verify_bytes

PYTHON = [path for folder in ("scripts", "dev", "release", "toolchain") for path in (ROOT / folder).rglob("*.py")]
RULES = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
HOSTILE = ["../../x", "/etc/passwd", "a/b/../../../c", "$(touch pwned)", "a;touch pwned", "`touch pwned`", "-o"]


def test_no_script_calls_a_shell():
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name, where = ast.unparse(node.func), f"{path}:{node.lineno}"
                assert name not in ("os.system", "os.popen", "eval", "exec"), where
                # what may run what it reads
                assert not name.startswith(("os.spawn", "pickle.", "yaml.load", "torch.load")), where
                assert not any(word.arg == "shell" for word in node.keywords), where


def test_every_shell_command_of_a_rule_quotes_what_it_is_given():
    for path in RULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bshell\(|os\.system|shell=True", text), path
        for command in re.findall(r"^ +shell:\n((?: +[rf]*\".*\"\n)+)", text, re.MULTILINE):
            assert not re.search(r"^ +r?f", command, re.MULTILINE), "an f-string is filled in before anything is quoted"
            fields = re.findall(r"(?<!\{)\{([^{}]+)\}", command)
            assert fields, path
            assert all(field.endswith(":q") for field in fields), fields
        assert text.count("shell:") == len(re.findall(r"^ +shell:\n +[rf]*\"", text, re.MULTILINE)), path


def test_the_names_of_a_configuration_are_plain(root):
    """They become parts of paths and labels."""
    from phase_twin.config import PruneTarget

    for name in HOSTILE:
        with pytest.raises(ValueError, match="name"):
            PruneTarget(name=name, budget_mb=1)


@pytest.fixture
def hostile_twin(tmp_path) -> tuple[Path, list[Path]]:
    """A twin whose tensors, groups and keys have hostile names, and the variants it is of."""
    folder = tmp_path / "in"
    folder.mkdir()
    groups = [expert(0, "down"), *HOSTILE]
    variants = []
    for number, kind in enumerate((IQ3_A770, Q4_K)):
        keys = [*gguf_files.PLAIN, ("../../key", "str", "../../value"), ("general.name", "str", "$(touch pwned)")]
        keys += gguf_files.IQ3_KEYS if kind == IQ3_A770 else []
        tensors = [gguf_files.filled(name, (256, 2, 2), kind) for name in groups]
        variants.append(gguf_files.write(folder / f"variant{number}.gguf", keys, tensors))
    pack(variants, folder / "twin.gguf", groups, None)
    return folder / "twin.gguf", variants


def test_tensor_names_never_become_paths(hostile_twin, tmp_path):
    """Pack, verify, manifest and prune write the files that they are told to, and no other."""
    twin_path, variants = hostile_twin
    before = all_files(tmp_path)
    twin = Twin.read(twin_path)
    assert set(HOSTILE) <= set(twin.groups)
    assert set(HOSTILE) <= verify_bytes(twin_path, variants)["tensors"].keys()
    manifest = Manifest.of(twin, [], hash_gguf(twin.gguf)[1])
    assert Manifest.parse(manifest.json().encode(), "manifest").tensors == manifest.tensors
    prune(twin, select(twin, variant=1), tmp_path / "out.gguf")
    assert {tensor.name for tensor in Gguf.read(tmp_path / "out.gguf").tensors} == {expert(0, "down"), *HOSTILE}
    assert all_files(tmp_path) == before | {tmp_path / "out.gguf"}


def all_files(folder: Path) -> set[Path]:
    return {path for path in folder.parent.rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 0.01)
    with HubServer() as server:
        server.files["text"] = b"a text"
        yield server


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"])
def test_a_redirect_to_another_kind_of_place_is_refused(hub, tmp_path, place):
    hub.redirects["/text"] = place
    with new_client() as client, pytest.raises(UserError, match="UnsupportedProtocol: "):
        fetch.fetch(client, f"{hub.url}/text", tmp_path / "out", Pin())
    assert not (tmp_path / "out").exists()


def test_https_does_not_become_http(tmp_path):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.scheme == "https":
            return httpx2.Response(302, headers={"Location": "http://elsewhere.example/text"})
        return httpx2.Response(200, content=b"a text")

    client = httpx2.Client(follow_redirects=True, transport=httpx2.MockTransport(answer))
    with client, pytest.raises(UserError, match=r"redirects to http://elsewhere\.example/text: not https, refused"):
        fetch.fetch(client, "https://declared.example/text", tmp_path / "out", Pin())
    assert list(tmp_path.iterdir()) == []


def test_a_token_stays_with_its_host(tmp_path):
    seen = {}

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen[request.url.host] = request.headers.get("Authorization")
        if request.url.host == "declared.example":
            return httpx2.Response(302, headers={"Location": "https://elsewhere.example/text"})
        return httpx2.Response(200, content=b"a text")

    with httpx2.Client(follow_redirects=True, transport=httpx2.MockTransport(answer)) as client:
        token = {"Authorization": "Bearer marked"}
        fetch.fetch(client, "https://declared.example/text", tmp_path / "out", Pin(), headers=token)
    assert seen == {"declared.example": "Bearer marked", "elsewhere.example": None}


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"])
def test_a_source_is_declared_by_https_only(url):
    with pytest.raises(ValueError, match="url"):
        Text(url=url, license="none")
