"""Ranges of a file over HTTP; what a server answers is checked before a byte of it is used.

The package requests does the talking: gguf needs it anyway, so nothing is to be installed, and it keeps credentials
from other hosts that a server redirects to. It is imported late, as local files do without. No message shows a query
or credentials: both may be secrets.
"""

import logging
import random
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..container.reader import Address
from ..errors import GgufError, amount
from . import hub

log = logging.getLogger("prune-dual")

BUSY = frozenset({408, 429, 500, 502, 503, 504})
ATTEMPTS = 6  # in a row without a new byte
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
TIMEOUT_S = (30, 30)  # to connect; between two pieces of a body
PIECE = 256 << 10  # bytes handed on at a time

Sink = Callable[[int, bytes], None]


class _Retry(Exception):  # noqa: N818
    """A fault that may pass: worth another try after `delay` seconds (None: the usual backoff)."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class Stopped(Exception):  # noqa: N818
    """Another thread asked to stop."""


class Remote:
    """A file at an http:, https: or hf: address.

    `size` in bytes and `validator`, which changes when the file does ("" where the server tells none), are known after
    the first range was read; every later answer is held to them.

    Raises
    ------
    GgufError
        if a package is missing or the address is none; from every method, if the server refuses, lies, keeps failing
        or has another file than before. One line each, naming the address.
    """

    def __init__(self, location: str) -> None:
        self.requests = _import("requests", "requests", location)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings show whole URLs
        self.headers: dict[str, str] = {}
        scheme, _, rest = location.partition("://")
        location = f"{scheme.lower()}://{rest}"
        self.hub = location.startswith("hf://")
        self.url = self._hub_url(location) if self.hub else location
        self.address = shown(self.url)
        self.size: int | None = None
        self.validator = ""
        self.received = 0  # bytes of bodies
        self._mutex = threading.Lock()
        self._local = threading.local()

    def _hub_url(self, location: str) -> str:
        file = hub.HubFile.parse(location)
        package = _import("huggingface_hub.constants", "huggingface_hub", location)
        if package.constants.HF_HUB_OFFLINE:
            raise GgufError(f"{location}: HF_HUB_OFFLINE is set, so nothing can be fetched")
        if token := hub.token():
            self.headers["Authorization"] = f"Bearer {token}"
        return file.url

    def first(self, nbytes: int) -> bytes:
        """The first `nbytes` bytes, or all if there are fewer; learns size and validator."""
        data = bytearray()
        self.fetch(0, nbytes, lambda _, piece: data.extend(piece))
        return bytes(data)

    def fetch(self, start: int, end: int, sink: Sink, stop: threading.Event | None = None) -> None:
        """Bring the bytes from `start` up to `end`, in pieces of known offset, going on where a connection is cut.

        Raises
        ------
        Stopped
            when `stop` is set by another thread.
        """
        stop = stop or threading.Event()
        at, failures = start, 0
        while at < min(end, end if self.size is None else self.size):
            try:
                for piece in self._range(at, end):
                    if stop.is_set():
                        raise Stopped
                    sink(at, piece)
                    at += len(piece)
                    failures = 0
                if at < min(end, self.size or 0):
                    raise _Retry("the connection was cut")
            except _Retry as fault:
                failures += 1
                self._wait(fault, failures, stop)

    def small(self, limit: int, beside: str | None = None) -> bytes | None:
        """The whole of this file, or of the one named `beside` in its folder: at most `limit` bytes.

        None if there is no such file beside this one, or not for us: a signed link covers one file only.
        """
        url, failures = self.beside(beside) if beside else self.url, 0
        while True:
            try:
                return self._whole(url, limit, beside is not None)
            except _Retry as fault:
                failures += 1
                self._wait(fault, failures, threading.Event(), shown(url))

    def beside(self, name: str) -> str:
        """The URL of another file of the same folder, where this one's credentials serve too."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + name, query="", fragment=""))

    def _wait(self, fault: _Retry, failures: int, stop: threading.Event, address: Address | None = None) -> None:
        address = address or self.address
        if failures >= ATTEMPTS:
            raise GgufError(
                f"{address}: {fault}; gave up after {ATTEMPTS} attempts: check the network and run again, "
                "what was fetched so far is kept"
            ) from None
        delay = fault.delay
        if delay is None:
            delay = FIRST_DELAY_S * 2 ** (failures - 1) * random.uniform(1, 1.25)
        delay = min(delay, LONGEST_DELAY_S)
        log.warning("%s: %s; trying again in %.0f s", address, fault, delay)
        if stop.wait(delay):
            raise Stopped

    def _send(self, url: str, headers: dict[str, str]) -> Any:
        """One GET, redirects followed, the body not yet read."""
        errors = self.requests.exceptions
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self.requests.Session()
        # a token of ours must not give way to a password of ~/.netrc
        auth = (lambda request: request) if self.headers else None
        headers = {**self.headers, "Accept-Encoding": "identity", **headers}
        try:
            response = session.get(url, headers=headers, auth=auth, stream=True, timeout=TIMEOUT_S)
        except errors.SSLError as error:
            if not any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error)):
                raise _Retry(f"no secure connection: {_reason(error)}") from None
            raise GgufError(f"{shown(url)}: no secure connection: {_reason(error)}") from None
        except (errors.InvalidProxyURL, errors.InvalidSchema) as error:
            if not (proxy := self._proxy(session, url)):
                raise GgufError(f"{shown(url)}: not an address to fetch from: {type(error).__name__}") from None
            socks = ", or for socks: pip install pysocks" * proxy.lower().startswith("socks")
            raise GgufError(
                f"the proxy {shown(proxy)} cannot be used: set https_proxy and http_proxy anew{socks}"
            ) from None
        except (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError) as error:
            proxy = self._proxy(session, url)
            through = f" through the proxy {shown(proxy)}" if proxy else ""
            raise _Retry(f"cannot be reached{through}: {_reason(error)}") from None
        except errors.TooManyRedirects:
            raise GgufError(f"{shown(url)}: the server redirects in circles") from None
        except (errors.RequestException, ValueError) as error:
            raise GgufError(f"{shown(url)}: not an address to fetch from: {type(error).__name__}") from None
        hops = [answer.url for answer in (*response.history, response)]
        plain = [hop for hop in hops if not hop.lower().startswith("https:")]
        if plain and url.lower().startswith("https:"):
            response.close()
            raise GgufError(f"{shown(url)}: redirects to {shown(plain[0])}, which is not https: refused")
        if response.status_code in BUSY:
            response.close()
            after = response.headers.get("Retry-After", "")
            said = hub.busy(response.status_code) if hub.repo_of(url) else f"HTTP {response.status_code}"
            raise _Retry(said, float(after) if after.isdigit() else None)
        return response

    def _proxy(self, session: Any, url: str) -> str | None:
        """The proxy by which `url` is fetched; None without one."""
        proxies = session.merge_environment_settings(url, {}, None, None, None)["proxies"]
        return self.requests.utils.select_proxy(url, proxies)

    def _refusal(self, response: Any, address: Address) -> GgufError:
        """The error for a status that no retry will change."""
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        if repo := hub.repo_of(address):
            return GgufError(f"{address}: {hub.refusal(repo, status, code, authorized=bool(self.headers))}")
        if status in (401, 403):
            hint = "; it needs a login or a fresh link; for the Hugging Face hub use hf://OWNER/REPOSITORY/FILE"
        elif status in (404, 410):
            hint = f" ({code})" * bool(re.fullmatch(r"[A-Za-z]{1,40}", code)) + "; check the address"
        else:
            hint = ""
        return GgufError(f"{address}: the server answers HTTP {status} {response.reason}{hint}")

    def _pieces(self, response: Any) -> Iterator[bytes]:
        """The body as it was sent."""
        from urllib3.exceptions import HTTPError  # comes with requests

        try:
            while piece := response.raw.read(PIECE, decode_content=False):
                with self._mutex:
                    self.received += len(piece)
                yield piece
        except (HTTPError, OSError) as error:
            raise _Retry(f"the connection was cut: {_reason(error)}") from None

    def _whole(self, url: str, limit: int, optional: bool) -> bytes | None:
        response = self._send(url, {})
        try:
            if optional and response.status_code in (401, 403, 404, 410):
                return None
            if response.status_code != 200:
                raise self._refusal(response, shown(url))
            data = bytearray()
            for piece in self._pieces(response):
                data += piece
                if len(data) > limit:
                    raise GgufError(f"{shown(url)}: has more than {amount(limit)}, which is too much for what it is")
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and len(data) != int(length):
                raise _Retry("the connection was cut")
            return bytes(data)
        finally:
            response.close()

    def _range(self, start: int, end: int) -> Iterator[bytes]:
        """Ask for a range once; yield what comes, never more than asked for."""
        if self.size is not None:
            end = min(end, self.size)
        response = self._send(self.url, {"Range": f"bytes={start}-{end - 1}"})
        finished = False
        try:
            end = self._check(response, start, end)
            left = end - start
            for piece in self._pieces(response):
                if len(piece) > left:
                    raise GgufError(f"{self.address}: the server sends more bytes than it was asked for: not usable")
                left -= len(piece)
                yield piece
            finished = not left
        finally:
            if not finished:
                response.close()  # else the rest would be taken for the next answer

    def _check(self, response: Any, start: int, end: int) -> int:
        """Hold an answer's head to what was asked and to earlier answers; return where its body ends."""
        status, headers = response.status_code, response.headers
        if status == 416:
            raise self._changed(f"it has no byte {start}")
        if status == 200 and headers.get("Content-Type", "").lower().startswith("text/html"):
            raise GgufError(
                f"{self.address}: is a web page, not a file; on the Hugging Face hub a file's address has /resolve/ in "
                "place of /blob/, or is hf://OWNER/REPOSITORY/FILE"
            )
        if status == 200:
            raise GgufError(
                f"{self.address}: the server ignores Range and sends the whole file; download the whole twin "
                "and give its path, or use a server that supports ranges"
            )
        if status != 206:
            raise self._refusal(response, self.address)
        if headers.get("Content-Encoding", "identity") != "identity":
            raise GgufError(f"{self.address}: the server compresses ranges: not usable")
        told = headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", told)
        if not match:
            raise GgufError(
                f"{self.address}: the server answers with Content-Range {told[:80]!r} instead of a range and a size"
            )
        first, last, total = map(int, match.groups())
        linked = [answer.headers.get("X-Linked-Etag", "") for answer in response.history]
        validator = next(filter(None, linked), "") or headers.get("ETag", "") or headers.get("Last-Modified", "")
        with self._mutex:
            if self.size is None:
                self.size, self.validator = total, validator
                self._pin_commit(response)
        if total != self.size:
            raise self._changed(f"it had {self.size} bytes and now has {total}")
        # one of several servers behind an address may tell none
        if validator and self.validator and validator != self.validator:
            raise self._changed(f"it was {self.validator} and now is {validator}")
        end = min(end, total)
        if (first, last) != (start, end - 1):
            raise GgufError(
                f"{self.address}: the server was asked for bytes {start}-{end - 1} and answers with {first}-{last}: "
                "not usable"
            )
        length = headers.get("Content-Length")
        if length is not None and length != str(end - start):
            raise GgufError(
                f"{self.address}: the server announces {length[:20]} bytes for a range of {end - start}: not usable"
            )
        return end

    def _changed(self, how: str) -> GgufError:
        if self.size is None:
            return GgufError(f"{self.address}: the file is empty")
        return GgufError(
            f"{self.address}: the file changed while it was fetched ({how}); run again to start over with the new one"
        )

    def _pin_commit(self, response: Any) -> None:
        """Let further requests to the hub go to the commit that the first one met, even if the branch moves."""
        for answer in (*response.history, response):
            commit = answer.headers.get("X-Repo-Commit", "")
            if self.hub and re.fullmatch(r"[0-9a-f]{40}", commit):
                self.url = re.sub(r"(/resolve/)[^/]+/", rf"\g<1>{commit}/", self.url, count=1)
                return


def is_remote(location: str) -> bool:
    """Whether `location` is an address rather than a local path."""
    return re.match(r"(https?|hf)://", location, re.IGNORECASE) is not None


def shown(url: str) -> Address:
    """`url` as it may appear in a message or a file: without credentials and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return Address(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")
    except ValueError:
        return Address("the address given")


def _import(module: str, package: str, location: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise GgufError(
            f"the Python package {package} is missing, which fetches {shown(location)}: pip install {package}"
        ) from None


def _causes(error: BaseException) -> list[BaseException]:
    """An error of requests and all that is behind it, the innermost last."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or one in seen:
            continue
        seen.append(one)
        waiting += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]
    return seen


def _reason(error: BaseException) -> str:
    """What is behind an error of requests, whose own text shows the whole URL."""
    seen = _causes(error)
    for one in reversed(seen):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    return type(seen[-1]).__name__
