"""A small hub on 127.0.0.1: as much of the Hugging Face API as down- and uploading needs, with faults on request.

Large files (LFS, here *.safetensors) are redirected to another origin, as the real hub does to its CDN.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Request:
    """What the server saw, and how it answered."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Faults:
    """What goes wrong. A file is named by its last path component."""

    # bytes of a response's body, or of what is PUT, then the connection closes
    cut_after: dict[str, int] = field(default_factory=dict)
    cut_always: bool = False  # else each name is cut once
    wrong_bytes: set[str] = field(default_factory=set)  # same size, other content
    busy: int = 0  # how many of the next requests get `busy_status`
    busy_status: int = 503
    busy_path: str = ""  # only requests whose path contains it
    busy_code: str = ""  # X-Error-Code of these answers
    ignore_range: bool = False
    no_etag: bool = False
    flip: set[int] = field(default_factory=set)  # bytes of a file that are sent wrong once
    lie: str = ""  # what the answer to a range gets wrong; see `_Handler.content`
    lie_from: int = 0  # only for ranges that start here or later


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Serves `repos[repo][commit][path]`, `branches[repo][name] = commit` and plain `files[path]`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}  # path -> where to
        self.store: dict[str, bytes] = {}  # large files that were uploaded, by SHA-256
        self.token = "hf_test"  # that may upload
        self.visibility: dict[str, str] = {}
        self.messages: list[str] = []  # of the commits that were uploaded
        self.faults = Faults()
        self.requests: list[Request] = []
        self.hook: Callable[[Request], None] = lambda request: None  # called before each answer
        self.mutex = threading.Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def cdn(self) -> str:
        # another host name, so another origin, of the same server
        return f"http://localhost:{self.server.server_port}/cdn"

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit that holds `files`, move `branch` to it and return its id."""
        commits = self.repos.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def head(self, repo: str) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.repos[repo][self.branches[repo]["main"]]

    def gets(self, name: str) -> list[Request]:
        """The GET requests whose path ends in `name`, redirects aside."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(name) and r.status != 302]

    def __enter__(self) -> "HubServer":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.receive()

    def do_PUT(self) -> None:
        self.receive()

    def receive(self) -> None:
        """The calls of an upload; large files are PUT to the store, the rest comes within the commit."""
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        self.seen = Request(self.command, path, {key.title(): value for key, value in self.headers.items()})
        with hub.mutex:
            hub.requests.append(self.seen)
        hub.hook(self.seen)
        length, cut = int(self.headers.get("Content-Length", 0)), None
        if self.command == "PUT":
            with hub.mutex:
                cut = hub.faults.cut_after.pop("PUT", None)
        body = self.rfile.read(length if cut is None else min(cut, length))
        if cut is not None:
            self.close_connection = True
            return None
        if path.startswith("/lfs/"):
            hub.store[path.removeprefix("/lfs/")] = body
            return self.reply(200, b"")
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401, b"{}")
        lines = [json.loads(line) for line in body.splitlines() if line]
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if path == "/api/repos/create":
            repo = f"{lines[0]['organization']}/{lines[0]['name']}"
            if repo in hub.repos:
                return self.reply(409, json.dumps({"url": f"{hub.url}/{repo}"}).encode())
            hub.visibility[repo] = lines[0].get("visibility", "public")
            hub.commit(repo, {})
            return self.reply_json({"url": f"{hub.url}/{repo}"})
        if path == "/api/validate-yaml":
            return self.reply_json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            return self.reply_json({"files": [self.upload_mode(repo, file) for file in lines[0]["files"]]})
        if path.endswith("/info/lfs/objects/batch"):
            return self.reply_json({"transfer": "basic", "objects": [self.lfs_action(o) for o in lines[0]["objects"]]})
        if "/commit/" in path:
            return self.reply_json(self.take_commit(repo, lines))
        return self.reply(404, b"{}")

    def upload_mode(self, repo: str, file: dict[str, Any]) -> dict[str, Any]:
        name = file["path"]
        there = self.server_hub.head(repo).get(name)
        oid = None if there is None or is_lfs(name) else blob_id(there)
        return {"path": name, "uploadMode": "lfs" if is_lfs(name) else "regular", "shouldIgnore": False, "oid": oid}

    def lfs_action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.server_hub.store:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.server_hub.url}/lfs/{wanted['oid']}"}}}

    def take_commit(self, repo: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        hub = self.server_hub
        files = dict(hub.head(repo))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.store[value["oid"]]
            else:
                hub.messages.append(value["summary"])
        commit = hub.commit(repo, files)
        return {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"}

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self) -> None:
        hub = self.server_hub
        sent = urlsplit(self.path).path
        path = unquote(sent)
        self.seen = Request(self.command, path, {key.title(): value for key, value in self.headers.items()})
        with hub.mutex:
            hub.requests.append(self.seen)
            busy = hub.faults.busy > 0 and hub.faults.busy_path in path
            hub.faults.busy -= busy
        hub.hook(self.seen)
        if busy:
            code = hub.faults.busy_code
            return self.reply(hub.faults.busy_status, b"busy", {"X-Error-Code": code} if code else {})
        if path in hub.redirects:
            return self.reply(302, b"", {"Location": hub.redirects[path]})
        if path.startswith("/api/models/"):
            return self.api([unquote(part) for part in sent.removeprefix("/api/models/").split("/")])
        if path.startswith("/cdn/"):
            repo, commit, name = path.removeprefix("/cdn/").rsplit("/", 2)
            return self.content(name, hub.repos[repo][commit][name], {})
        if "/resolve/" in path:
            # as the hub: slashes of a revision are those that were not quoted
            repo, _, rest = sent[1:].partition("/resolve/")
            return self.resolve(unquote(repo), *map(unquote, rest.split("/", 1)))
        if path[1:] in hub.files:
            return self.content(path.rsplit("/", 1)[1], hub.files[path[1:]], {})
        return self.reply(404, b"no such file")

    def api(self, parts: list[str]) -> None:
        hub = self.server_hub
        repo = "/".join(parts[:2])
        if repo not in hub.repos:
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        commit = self.find_commit(repo, parts[3] if len(parts) > 3 else "main")
        if commit is None:
            return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = hub.repos[repo][commit]
        if parts[2:3] in ([], ["revision"]):
            body: Any = {
                "_id": "0",
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "siblings": [{"rfilename": p} for p in files],
            }
        else:
            body = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "onnx"}]
            for name, content in files.items():
                entry = {"type": "file", "oid": blob_id(content), "size": len(content), "path": name}
                if is_lfs(name):
                    digest = hashlib.sha256(content).hexdigest()
                    entry |= {"oid": "0" * 40, "lfs": {"oid": digest, "size": len(content), "pointerSize": 134}}
                body.append(entry)
        return self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def find_commit(self, repo: str, revision: str) -> str | None:
        hub = self.server_hub
        commit = hub.branches[repo].get(revision, revision)
        return commit if commit in hub.repos[repo] else None

    def resolve(self, repo: str, revision: str, name: str) -> None:
        hub = self.server_hub
        if repo not in hub.repos:
            return self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        commit = self.find_commit(repo, revision)
        if commit is None or name not in hub.repos[repo][commit]:
            code = "RevisionNotFound" if commit is None else "EntryNotFound"
            return self.reply(404, b"", {"X-Error-Code": code})
        content = hub.repos[repo][commit][name]
        headers = {"X-Repo-Commit": commit}
        if not is_lfs(name):
            return self.content(name, content, headers)
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{hub.cdn}/{repo}/{commit}/{name}?X-Signature=not-for-logs",
        }
        return self.reply(302, b"", headers)

    def content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        faults = self.server_hub.faults
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if name in faults.wrong_bytes:
            content = bytes(byte ^ 1 for byte in content)
        if not faults.no_etag:
            headers["ETag"] = etag
        asked = self.headers.get("Range")
        current = self.headers.get("If-Range") in (None, etag)
        if asked and current and not faults.ignore_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, total = int(first), len(content)
            if start >= total:
                return self.reply(416, b"", {"Content-Range": f"bytes */{total}"})
            end = min(int(last) + 1 if last else total, total)
            body = bytearray(content[start:end])
            with self.server_hub.mutex:
                for at in [at for at in faults.flip if start <= at < end]:
                    body[at - start] ^= 1
                    faults.flip.discard(at)
            lie = faults.lie if start >= faults.lie_from else ""
            shift, more = lie == "range", lie == "total"
            headers["Content-Range"] = f"bytes {start + shift}-{end - 1 + shift}/{total + more}"
            if lie == "no range":
                del headers["Content-Range"]
            elif lie == "no total":
                headers["Content-Range"] = f"bytes {start}-{end - 1}/*"
            elif lie == "short":
                del body[-1:]
            elif lie == "long":
                body += b"x"
            elif lie == "compressed":
                headers["Content-Encoding"] = "gzip"
            elif lie.startswith("chunked"):
                headers["Transfer-Encoding"] = "chunked"
                body += b"x" * (lie == "chunked and long")
            return self.reply(206, bytes(body), headers, name)
        return self.reply(200, content, headers, name)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
        faults = self.server_hub.faults
        self.seen.status = status
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if "Transfer-Encoding" in (headers or {}):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.server_hub.mutex:
            limit = faults.cut_after.get(name) if faults.cut_always else faults.cut_after.pop(name, None)
        if limit is not None and limit < len(body):
            body = body[:limit]
            self.close_connection = True
        self.seen.sent = len(body)
        self.wfile.write(body)


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))
