"""Downloads that survive cut connections and interruptions and are checked before they get their name.

huggingface_hub 2.x discards the bytes of an interrupted file, so it serves here for the hub's metadata only
and the bytes come through this module.
"""

import logging
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from tqdm import tqdm

from prune_dual.transport import hub

from .errors import UserError
from .files import git_blob_id, sha256_file

log = logging.getLogger("phase_twin")

BUSY = frozenset({408, 429, 500, 502, 503, 504})
ATTEMPTS = 8  # in a row without a new byte
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
# left free beside the download: file system overhead, logs, locks
SPARE_BYTES = 64 << 20


class WrongContent(UserError):  # noqa: N818
    """What was downloaded is not what it must be."""


class Retry(Exception):  # noqa: N818
    """A fault that may pass: worth another try after `delay` seconds (None: the usual backoff)."""

    def __init__(self, reason: str, delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


@dataclass(frozen=True)
class Pin:
    """What a file must be (None: not known), who says so, and what to do if it is not."""

    bytes: int | None = None
    sha256: str | None = None
    blob_id: str | None = None
    said_by: str = ""
    remedy: str = "try again, and report it if it stays so"

    def check(self, path: Path, name: str) -> str:
        """Compare the file at `path`, told as `name`, and return its SHA-256."""
        self.check_size(path.stat().st_size, name)
        if self.blob_id is not None and (found := git_blob_id(path)) != self.blob_id:
            raise self.wrong(name, "git blob id", self.blob_id, found)
        found = sha256_file(path)
        if self.sha256 is not None and found != self.sha256:
            raise self.wrong(name, "SHA-256", self.sha256, found)
        return found

    def check_size(self, size: int, name: str) -> None:
        """Compare a size in bytes."""
        if self.bytes is not None and size != self.bytes:
            raise self.wrong(name, "size", self.bytes, size)

    def wrong(self, name: str, what: str, expected: object, found: object) -> WrongContent:
        """Tell a mismatch in one line."""
        return WrongContent(f"{name}: {what} is {found}, but {self.said_by} says {expected}; {self.remedy}")


class Progress:
    """Bytes done of a total, shown on stderr; safe to feed from several threads."""

    def __init__(self, name: str, total: int | None) -> None:
        # a terminal gets a live bar, a log a line now and then
        interval = 0.5 if sys.stderr.isatty() else 20
        self._bar = tqdm(desc=name, total=total, unit="B", unit_scale=True, mininterval=interval, file=sys.stderr)
        self._mutex = threading.Lock()

    def __call__(self, count: int) -> None:
        """Add `count` bytes; negative if bytes were thrown away."""
        with self._mutex:
            self._bar.update(count)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def quiet_http() -> None:
    """Keep each request's record out of the log: it would show the signatures in redirected URLs."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def new_client() -> httpx2.Client:
    """A client for `fetch`; share one between threads."""
    quiet_http()
    return httpx2.Client(follow_redirects=True, timeout=httpx2.Timeout(30, read=60))


def shown(url: str) -> str:
    """`url` as it may appear in a message: without credentials and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Raise a UserError unless `needed` bytes fit on the file system of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise UserError(
            f"{what} needs {needed / 2**30:.2f} GiB in {folder}, {free / 2**30:.2f} GiB are free; "
            "make room and run again, what is already there is kept"
        )


class Backoff:
    """Waits between attempts, longer each time; gives up after ATTEMPTS without progress."""

    def __init__(self, what: str, stop: threading.Event | None = None) -> None:
        self.what, self.failures, self.stop = what, 0, stop or threading.Event()

    def reset(self) -> None:
        """Note progress: the next wait is short again."""
        self.failures = 0

    def wait(self, fault: Retry) -> None:
        """Sleep before the next attempt (less if `stop` is set), or raise a UserError when there is none left."""
        self.failures += 1
        if self.failures >= ATTEMPTS:
            raise UserError(
                f"{self.what}: {fault}; gave up after {ATTEMPTS} attempts, run again to go on from where it stopped"
            ) from fault
        delay = fault.delay
        if delay is None:
            delay = FIRST_DELAY_S * 2 ** (self.failures - 1) * random.uniform(1, 1.25)
        delay = min(delay, LONGEST_DELAY_S)
        log.warning("%s: %s; trying again in %.0f s", self.what, fault, delay)
        self.stop.wait(delay)


def fetch(
    client: httpx2.Client,
    url: str,
    target: Path,
    pin: Pin,
    *,
    name: str | None = None,
    headers: dict[str, str] | None = None,
    progress: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
) -> str:
    """Bring `url` to `target` and return its SHA-256.

    Bytes collect in `<target>.part`, which an interruption leaves and the next call goes on from; `target` itself
    appears only when it is what `pin` says. A `target` that is there already is checked and kept.

    Parameters
    ----------
    name
        what messages call it; the target's file name if not given.
    headers
        sent to the host of `url`; Authorization does not follow a redirect to another host.
    progress
        told the count of each piece of bytes, and a negative one when bytes are thrown away.
    stop
        when set by another thread, this call ends with a UserError.

    Raises
    ------
    WrongContent
        if size or hash differ from `pin`.
    UserError
        if the server refuses or keeps failing, or the disk does.
    """
    download = _Download(
        client, url, target, pin, name or target.name, headers or {}, progress, stop or threading.Event()
    )
    try:
        return download.run()
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def bytes_present(target: Path) -> int:
    """Bytes of a download that are on disk already, done or in part."""
    return sum(path.stat().st_size for path in (target, _part(target)) if path.exists())


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


class _Download:
    """One file on its way; see `fetch`."""

    def __init__(
        self,
        client: httpx2.Client,
        url: str,
        target: Path,
        pin: Pin,
        name: str,
        headers: dict[str, str],
        progress: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self.client, self.url, self.target, self.pin = client, url, target, pin
        self.name, self.headers, self.progress, self.stop = name, headers, progress, stop
        self.part = _part(target)
        self.etag = target.with_name(self.part.name + ".etag")
        self.backoff = Backoff(f"{self.name} from {shown(url)}", stop)

    @property
    def size(self) -> int:
        """Bytes in the part file."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> str:
        """Do all of it; return the SHA-256."""
        if self.target.exists():
            try:
                digest = self.pin.check(self.target, self.name)
            except WrongContent as error:
                log.warning("%s; fetching it again", error)
                self.target.unlink()
            else:
                self.progress(self.target.stat().st_size)
                return digest
        carried = self.carried_over()
        while True:
            self.fill()
            try:
                digest = self.pin.check(self.part, self.name)
            except WrongContent as error:
                self.throw_away()
                if not carried:
                    raise
                # what an earlier run left may be damaged or of another file: one more try without it
                log.warning("%s; starting over without the bytes of the earlier run", error)
                carried = 0
                continue
            self.etag.unlink(missing_ok=True)
            os.replace(self.part, self.target)
            return digest

    def carried_over(self) -> int:
        """Bytes of an earlier run to go on from; what cannot serve is removed."""
        size = self.size
        self.progress(size)
        if size and (not self.can_go_on() or (self.pin.bytes is not None and size > self.pin.bytes)):
            self.throw_away()
            return 0
        if size:
            log.info("%s: going on from byte %d", self.name, size)
        return size

    def can_go_on(self) -> bool:
        """Whether it will show if the rest is of another file: by the ETag, or in the end by a known hash."""
        return self.etag.exists() or bool(self.pin.sha256 or self.pin.blob_id)

    def throw_away(self) -> None:
        """Start from nothing."""
        self.progress(-self.size)
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)

    def fill(self) -> None:
        """Request until the part file is complete."""
        while self.pin.bytes is None or not self.part.exists() or self.size < self.pin.bytes:
            if self.stop.is_set():
                raise UserError(f"{self.name}: stopped, because another download failed")
            try:
                self.request()
                return
            except Retry as fault:
                self.backoff.wait(fault)
            except httpx2.TransportError as error:
                if not self.can_go_on():
                    self.throw_away()
                self.backoff.wait(Retry(f"{type(error).__name__}: {error}"))
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                raise UserError(f"{self.name}: {shown(self.url)}: {type(error).__name__}: {error}") from error

    def request(self) -> None:
        """Send one GET and append what comes, from the part file's end on where the server can."""
        offset = self.size
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.etag.exists():
                headers["If-Range"] = self.etag.read_text(encoding="ascii")
        with self.client.stream("GET", self.url, headers=headers) as response:
            if self.url.startswith("https:") and response.url.scheme != "https":
                raise UserError(f"{shown(self.url)} redirects to {shown(str(response.url))}: not https, refused")
            status = response.status_code
            if status in BUSY:
                raise Retry(hub.busy(status) if hub.repo_of(self.url) else f"HTTP {status}", _retry_after(response))
            if status not in (200, 206, 416):
                raise UserError(f"{self.name}: {shown(self.url)}: {self.refusal(response)}")
            if offset and (
                status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
            ):
                self.throw_away()
                offset = 0
                if status != 200:
                    raise Retry(f"cannot go on from byte {offset}, starting over", 0)
            elif status != 200 and not offset:
                raise UserError(f"{self.name}: {shown(self.url)} answers HTTP {status} to a plain request")
            length = response.headers.get("Content-Length")
            if length is not None and "Content-Encoding" not in response.headers:
                self.pin.check_size(offset + int(length), self.name)
            tag = response.headers.get("ETag", "")
            if tag.startswith('"') and tag.isascii():  # a weak one does not promise the same bytes
                self.etag.write_text(tag, encoding="ascii")
            self.append(response, offset)

    def refusal(self, response: httpx2.Response) -> str:
        """What it means that the server does not send the file."""
        code, authorized = response.headers.get("X-Error-Code", ""), "Authorization" in self.headers
        if repo := hub.repo_of(self.url):
            return hub.refusal(repo, response.status_code, code, authorized=authorized)
        return f"HTTP {response.status_code} {response.reason_phrase}"

    def append(self, response: httpx2.Response, done: int) -> None:
        """Write the body behind the `done` bytes that are there."""
        with open(self.part, "ab", buffering=0) as file:
            for chunk in response.iter_bytes():
                if self.stop.is_set():
                    raise UserError(f"{self.name}: stopped, because another download failed")
                file.write(chunk)
                self.backoff.reset()
                self.progress(len(chunk))
                done += len(chunk)
                if self.pin.bytes is not None and done > self.pin.bytes:
                    raise self.pin.wrong(self.name, "size", self.pin.bytes, f"at least {done}")


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
