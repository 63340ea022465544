"""Addresses, and which host gets which credentials."""

import ssl
from types import SimpleNamespace

import pytest

from prune_dual import MIB, cli
from prune_dual.transport import http
from prune_dual.transport import hub as hub_address
from prune_dual.transport.http import Remote, is_remote, shown
from remote_twin import NAME, REPO, fetch, manifest_of, pruned_locally, refused, sent


def test_the_hub_by_name_with_a_redirect_and_a_token(hub, twin, out, tmp_path, monkeypatch, caplog):
    token = "hf_" + "secret" * 5
    monkeypatch.setenv("HF_TOKEN", token)
    files = {NAME: twin.read_bytes(), "manifest.json": manifest_of(twin).encode()}
    first = hub.commit(REPO, files)

    def move_the_branch(request):
        if request.path.startswith("/cdn/") and len(hub.repos[REPO]) == 1:
            hub.commit(REPO, {NAME: b"something else"})

    hub.hook = move_the_branch
    fetch(f"hf://{REPO}/{NAME}@main", out)
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    by_host = {"cdn": set(), "someone": set()}
    for request in hub.requests:
        by_host[request.path.split("/")[1]].add(request.headers.get("Authorization"))
    assert by_host == {"cdn": {None}, "someone": {f"Bearer {token}"}}
    resolved = [request.path for request in hub.requests if "/resolve/" in request.path]
    assert "/resolve/main/" in resolved[0]
    assert all(f"/resolve/{first}/" in path for path in resolved[1:])
    assert "secret" not in caplog.text
    assert "not-for-logs" not in caplog.text


def test_a_password_in_the_address_stays_with_its_host(hub, twin, out, monkeypatch):
    hub.commit(REPO, {NAME: twin.read_bytes()})
    fetch(hub.url.replace("http://", "http://user:pass@") + f"/{REPO}/resolve/main/{NAME}", out)
    seen = {(request.path.split("/")[1], "Authorization" in request.headers) for request in hub.requests}
    assert seen == {("someone", True), ("cdn", False)}


def test_the_hub_is_not_asked_when_offline(hub, out, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(lambda: fetch(f"hf://{REPO}/{NAME}", out), "HF_HUB_OFFLINE is set")
    assert not hub.requests


def test_nothing_secret_is_written_down(hub, twin, out, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "secret" * 5)
    monkeypatch.setattr(http, "ATTEMPTS", 2)
    hub.commit(REPO, {NAME: twin.read_bytes()})
    hub.files[NAME] = twin.read_bytes()
    plain = hub.url.replace("http://", "http://user:secret@") + f"/{NAME}?signature=secret"
    for url in (f"hf://{REPO}/{NAME}", plain):
        hub.faults.cut_after, hub.faults.cut_always = {}, True
        hub.hook = lambda request: hub.faults.cut_after.update({NAME: 0} if sent(hub) > 2 * MIB else {})
        hub.requests.clear()
        message = refused(lambda url=url: fetch(url, out), NAME, "gave up after 2 attempts")
        folder = out.with_name(f".{out.name}.fetch")
        assert folder.exists()
        for text in (message, *(path.read_bytes().decode("latin-1") for path in folder.iterdir())):
            assert "secret" not in text
            assert "not-for-logs" not in text
    assert hub.requests[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"hf://{REPO}", "not of the form hf://"),
        (f"hf://{REPO}/{NAME}@", "not of the form hf://"),
        (f"hf://{REPO}@main/{NAME}@main", "not of the form hf://"),
        (f"hf://datasets/{REPO}/{NAME}", "not of the form hf://"),
        (f"hf://{REPO}/a/../{NAME}", ". and .. are no names"),
        (f"hf://{REPO}@../{NAME}", ". and .. are no names"),
        (f"hf://{REPO}/none.gguf", f"HTTP 404: {REPO} has no such file in that revision"),
        (f"hf://{REPO}/{NAME}@nope", f"HTTP 404: {REPO} has no such revision"),
        (f"hf://{REPO}@a/branch/{NAME}", "a branch's slashes are written %2F before the file"),
        (f"hf://someone/else/{NAME}", "HTTP 401: there is no someone/else, or it is private: check the name"),
    ],
)
def test_the_hub_has_no_such_thing(hub, twin, out, address, words):
    hub.commit(REPO, {NAME: twin.read_bytes()})
    refused(lambda: fetch(address, out), words)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "RepoNotFound", "HTTP 401: the token is not valid, or there is no {repo} that it may read"),
        (403, "GatedRepo", "is gated: accept its terms at {hub}/{repo}, with the account of your token"),
        (403, "", "HTTP 403: the token may not read {repo}: see {hub}/settings/tokens"),
        (404, "RepoNotFound", "HTTP 404: there is no {repo}, or it is private"),
        (429, "", "HTTP 429: too many requests, more are allowed with an account: log in (hf auth login)"),
        (451, "", "HTTP 451: not understood"),
    ],
)
def test_what_the_hub_refuses_comes_with_what_to_do(hub, twin, out, monkeypatch, status, code, words):
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    hub.commit(REPO, {NAME: twin.read_bytes()})
    hub.faults.busy, hub.faults.busy_status, hub.faults.busy_code = 99, status, code
    refused(lambda: fetch(f"hf://{REPO}/{NAME}", out), words.format(repo=REPO, hub=hub.url))


@pytest.mark.parametrize(
    ("revision", "addresses"),
    [
        ("refs/pr/1", ["@refs%2Fpr%2F1/{}", "@refs/pr/1/{}", "/{}@refs/pr/1", "/{}@refs%2Fpr%2F1"]),
        ("a/branch", ["@a%2Fbranch/{}", "/{}@a/branch", "/{}@a%2Fbranch"]),
        ("100%", ["@100%25/{}", "/{}@100%25"]),
        ("main", ["/{}", "@main/{}"]),
    ],
)
def test_the_forms_of_a_hub_address(hub, revision, addresses):
    hub.commit(REPO, {"folder/some file.bin": b"GGUF"}, revision)
    for address in addresses:
        assert Remote(f"hf://{REPO}" + address.format("folder/some file.bin")).first(4) == b"GGUF"


def test_the_token_of_a_login_is_taken(hub, twin, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_of_a_login\n")
    hub.commit(REPO, {NAME: twin.read_bytes()})
    Remote(f"hf://{REPO}/{NAME}").first(4)
    assert hub.requests[0].headers["Authorization"] == "Bearer hf_of_a_login"
    monkeypatch.setenv("HF_TOKEN", "hf_two tokens")
    message = refused(lambda: Remote(f"hf://{REPO}/{NAME}"), "the hub's token has spaces")
    assert "two" not in message


def test_a_token_that_is_no_text(hub, tmp_path, monkeypatch):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    refused(lambda: Remote(f"hf://{REPO}/{NAME}"), "the file of the hub's token is no text: log in")


def test_the_endpoint_must_be_an_address(hub, monkeypatch):
    hub.commit(REPO, {NAME: b"GGUF"})
    monkeypatch.setenv("HF_ENDPOINT", f" {hub.url}/ ")
    assert Remote(f"hf://{REPO}/{NAME}").first(4) == b"GGUF"
    monkeypatch.setenv("HF_ENDPOINT", "localhost:8080")
    refused(lambda: Remote(f"hf://{REPO}/{NAME}"), "HF_ENDPOINT is 'localhost:8080': not an address such as https://")
    monkeypatch.setenv("HF_ENDPOINT", " ")
    assert hub_address.endpoint() == "https://huggingface.co"


def test_the_page_of_a_file_is_not_the_file(hub, url):
    page = f"{hub.url}/{REPO}/blob/main/{NAME}"
    there = Remote(page)
    headers = {"Content-Type": "text/html; charset=utf-8"}
    answer = SimpleNamespace(url=page, history=[], status_code=200, headers=headers, close=lambda: None)
    there._send = lambda *_: answer
    refused(lambda: there.first(4), f"{page}: is a web page, not a file", "/resolve/ in place of /blob/")


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://me:secret@127.0.0.1:1", "cannot be reached through the proxy http://127.0.0.1:1: Connection refused"),
        ("nonsense://", "the proxy nonsense:// cannot be used: set https_proxy and http_proxy anew"),
    ],
)
def test_a_proxy_that_does_not_serve_is_named(url, monkeypatch, proxy, words):
    monkeypatch.setattr(http, "ATTEMPTS", 1)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "secret" not in refused(lambda: Remote(url).first(4), words)


def test_https_does_not_become_http(hub, url, monkeypatch):
    """As if a server behind TLS had redirected to plain HTTP."""
    there = Remote(url.replace("http:", "https:"))
    hop = SimpleNamespace(url=url)
    for history, end in (([], url), ([hop], there.url)):  # at the end, or only on the way
        answer = SimpleNamespace(url=end, history=history, status_code=206, close=lambda: None)
        monkeypatch.setattr(there.requests.Session, "get", lambda *_, answer=answer, **__: answer)
        refused(lambda: there.first(10), "which is not https: refused")


def test_a_secure_connection_that_breaks_is_tried_again_but_not_a_wrong_certificate(hub, url, twin, out, monkeypatch):
    there = Remote(url)
    get, faults = there.requests.Session.get, [ssl.SSLEOFError(8, "EOF occurred in violation of protocol")]

    def broken(*arguments, **options):
        if faults:
            raise there.requests.exceptions.SSLError(faults.pop())
        return get(*arguments, **options)

    monkeypatch.setattr(there.requests.Session, "get", broken)
    assert there.first(4) == b"GGUF"
    faults.append(ssl.SSLCertVerificationError(1, "certificate verify failed"))
    refused(lambda: there.first(4), "no secure connection: certificate verify failed")
    assert not faults


def test_the_scheme_may_be_in_capitals(hub, url):
    assert is_remote("HTTP://host/x.gguf")
    assert is_remote("HF://someone/repo/x.gguf")
    assert Remote(url.replace("http", "HTTP")).first(4) == b"GGUF"


@pytest.mark.parametrize("status", [401, 403])
def test_a_signed_link_gives_nothing_beside_the_twin(hub, url, twin, out, tmp_path, capfd, status):
    """It is good for one file; without the signature the server does not even say what there is."""
    hub.faults.busy, hub.faults.busy_status, hub.faults.busy_path = 99, status, ".json"
    arguments = ["--dual", f"{url}?signature=secret", "--variant", "1"]
    assert cli.main([*arguments, "--dry-run"]) == 0
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert out.read_bytes() == pruned_locally(twin, tmp_path, variant=1)
    assert "secret" not in "".join(capfd.readouterr())


def test_addresses_are_shown_without_secrets():
    assert shown("https://me:pass@host:8443/a/twin.gguf?sig=1#x") == "https://host:8443/a/twin.gguf"
    assert shown("https://host/a/twin.gguf").name == "twin.gguf"
