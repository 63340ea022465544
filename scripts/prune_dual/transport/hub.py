"""The Hugging Face hub as all that goes there or comes from there takes it: endpoint, token, addresses, refusals.

huggingface_hub is imported late, as local files do without.
"""

import os
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from ..errors import GgufError

HUB = "https://huggingface.co"
LOG_IN = "log in (hf auth login) or set HF_TOKEN"
FORMS = "hf://OWNER/REPOSITORY/FILE, ...FILE@REVISION or hf://OWNER/REPOSITORY@REVISION/FILE"


def endpoint() -> str:
    """Base URL of the hub: HF_ENDPOINT where set.

    Raises
    ------
    GgufError
        if that is no address.
    """
    found = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB
    if not re.match(r"https?://[^/\s]", found):
        raise GgufError(f"HF_ENDPOINT is {found!r}: not an address such as {HUB}")
    return found


def token() -> str | None:
    """The token of HF_TOKEN, or of the file that HF_TOKEN_PATH names and `hf auth login` writes; None without one.

    Raises
    ------
    GgufError
        if it cannot be sent, as it has characters that no token has.
    """
    from huggingface_hub import get_token

    try:
        found = get_token()
    except UnicodeDecodeError:
        raise GgufError(f"the file of the hub's token is no text: {LOG_IN}") from None
    if found and not re.fullmatch(r"[!-~]+", found):
        raise GgufError("the hub's token has spaces or characters that no token has: set HF_TOKEN anew")
    return found


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository."""

    repo: str
    name: str
    revision: str

    @classmethod
    def parse(cls, location: str) -> Self:
        """Read an hf:// address, of our form or of that of huggingface_hub, fsspec and pandas.

        A revision is unquoted once. Before the file, slashes belong to it in refs/pr/N and refs/convert/NAME only:
        those of a branch are written %2F there.

        Raises
        ------
        GgufError
            if it is of neither form.
        """
        match = re.fullmatch(
            r"hf://(?:models/)?(?P<repo>[^/@]+/[^/@]+)"
            r"(?:@(?P<before>refs/(?:pr|convert)/[^/@]+|[^/@]+))?/(?P<name>[^@]*[^/@])(?:@(?P<after>.+))?",
            location,
        )
        if not match or (match["before"] and match["after"]) or match["repo"].startswith(("datasets/", "spaces/")):
            raise GgufError(f"{location}: not of the form {FORMS}, of a model")
        revision = unquote(match["before"] or match["after"] or "main")
        # on the way they would be taken for other folders, so for another file
        if {".", ".."} & {part for parts in (match["repo"], match["name"], revision) for part in parts.split("/")}:
            raise GgufError(f"{location}: . and .. are no names: not of the form {FORMS}, of a model")
        return cls(match["repo"], match["name"], revision)

    @property
    def url(self) -> str:
        """Where its bytes are."""
        return f"{endpoint()}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.name)}"


def repo_of(url: str) -> str | None:
    """The repository that a URL of the hub is about; None for another host's."""
    base, path = endpoint(), urlsplit(url).path
    if not url.startswith(f"{base}/"):
        return None
    path = path.removeprefix(urlsplit(base).path)
    match = re.match(r"/api/models/([^/]+/[^/]+)|/([^/]+/[^/]+)/resolve/", path)
    return match and (match[1] or match[2])


def refusal(repo: str, status: int, code: str, *, authorized: bool, writing: bool = False) -> str:
    """What it means that the hub answers `status` for a repository, and what to do about it.

    Parameters
    ----------
    code
        the answer's X-Error-Code, "" without.
    authorized
        whether a token was sent.
    """
    page = f"{endpoint()}/{repo}"
    right = "write to" if writing else "read"
    if code == "GatedRepo":
        then = "with the account of your token" if authorized else f"then {LOG_IN}"
        means = f"{repo} is gated: accept its terms at {page}, {then}"
    elif status == 403:
        means = f"the token may not {right} {repo}: see {endpoint()}/settings/tokens" if authorized else LOG_IN
    elif code == "RevisionNotFound":
        means = f"{repo} has no such revision; a branch's slashes are written %2F before the file"
    elif code == "EntryNotFound":
        means = f"{repo} has no such file in that revision"
    elif status == 401 and authorized:
        means = f"the token is not valid, or there is no {repo} that it may {right}: check the name, {LOG_IN}"
    elif status in (401, 404):
        means = f"there is no {repo}, or it is private: check the name, and if it is private {LOG_IN}"
    else:
        means = "try again later" if status >= 500 else "not understood"
    return f"HTTP {status}: {means}"


def busy(status: int) -> str:
    """What to say of a status that may pass."""
    return f"HTTP {status}" + f": too many requests, more are allowed with an account: {LOG_IN}" * (status == 429)
