"""The patch series: its topics and order, the header of each patch, and what each changes.

`patches/series` names the patches in the order they apply, a group per topic under a banner:

    # type: what the topic is about
    type/iq3-a770.patch

Each patch is what `git format-patch` writes: a reason, then trailers in the manner of DEP-3.
"""

import email
import email.policy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from .errors import UserError

WORD = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
NAME = re.compile(rf"{WORD}/{WORD}")
BANNER = re.compile(rf"# ({WORD}): (\S.*)")
TRAILER = re.compile(r"([A-Z][A-Za-z]*(?:-[A-Za-z]+)*): (\S.*)")
STATUS = re.compile(r"Pending|Inappropriate \[.+\]|Backport \[.*\b[0-9a-f]{7,40}\b.*\]|Submitted \[https://\S+\]")
STATUS_FORMS = "Pending, Inappropriate [reason], Backport [commit] or Submitted [https://...]"
HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
DIFF_LINES = ("diff --git ", "index ", "new file mode ", "deleted file mode ", "old mode ", "new mode ", "--- ", "+++ ")


@dataclass(frozen=True)
class FileDiff:
    """What a patch does to one file; `stray` are lines that belong to no hunk."""

    path: str
    is_new: bool
    added: int
    removed: int
    hunks: int
    stray: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Patch:
    """One patch; `name` is topic/name, without the suffix."""

    name: str
    subject: str
    reason: str
    status: str
    files: tuple[FileDiff, ...]
    content: bytes

    @property
    def topic(self) -> str:
        """The folder it is in."""
        return self.name.partition("/")[0]

    @property
    def added(self) -> int:
        """Lines added."""
        return sum(diff.added for diff in self.files)

    @property
    def removed(self) -> int:
        """Lines removed."""
        return sum(diff.removed for diff in self.files)

    @property
    def hunks(self) -> int:
        """Hunks in all files."""
        return sum(diff.hunks for diff in self.files)


@dataclass(frozen=True)
class Series:
    """The patches in order; `banners` say what each topic is about."""

    banners: dict[str, str]
    patches: tuple[Patch, ...]

    @property
    def text(self) -> str:
        """What the file `series` holds."""
        listed: dict[str, str] = {}
        for patch in self.patches:
            start = listed.get(patch.topic) or f"# {patch.topic}: {self.banners[patch.topic]}\n"
            listed[patch.topic] = f"{start}{patch.name}.patch\n"
        return "\n".join(listed.values())


def read_series(folder: Path) -> Series:
    """Read `folder`/series and the patches it names.

    Raises
    ------
    UserError
        for a line that is neither banner nor patch, a patch that is listed twice, listed but missing, present but not
        listed, or has a wrong header.
    """
    where = folder / "series"
    banners, names = read_list(where)
    for name in names:
        if not (folder / f"{name}.patch").is_file():
            raise UserError(f"{where}: {name}.patch is listed but missing")
    for path in sorted(folder.rglob("*.patch")):
        if path.relative_to(folder).with_suffix("").as_posix() not in names:
            raise UserError(f"{path}: not listed in {where}")
    return Series(banners, tuple(read_patch(folder / f"{name}.patch") for name in names))


def read_list(where: Path) -> tuple[dict[str, str], list[str]]:
    """Read a file `series`: the banner of each topic, and the patches' names without suffix."""
    try:
        lines = where.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}") from error
    banners: dict[str, str] = {}
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        name = line.removesuffix(".patch")
        if not line:
            continue
        if banner := BANNER.fullmatch(line):
            if banner[1] in banners:
                raise UserError(f"{where}:{number}: topic {banner[1]} has two banners")
            banners[banner[1]] = banner[2]
        elif not NAME.fullmatch(name) or name == line:
            raise UserError(f"{where}:{number}: {line!r} is neither `# topic: what it is about` nor topic/name.patch")
        elif name in names:
            raise UserError(f"{where}:{number}: {line} is listed twice")
        elif not banners or name.partition("/")[0] != [*banners][-1]:
            raise UserError(f"{where}:{number}: {line} does not stand under the banner of its topic")
        else:
            names.append(name)
    return banners, names


def patch_name(path: Path) -> str:
    """Topic and name of the patch at `path`."""
    return f"{path.parent.name}/{path.stem}"


def read_patch(path: Path) -> Patch:
    """Read one patch; its header must be complete, see `parse_patch`."""
    try:
        return parse_patch(patch_name(path), path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def parse_patch(name: str, content: bytes) -> Patch:
    """Take a patch apart.

    Raises
    ------
    UserError
        naming what its header lacks: subject, reason, or a trailer in the right form.
    """
    head, *diffs = re.split(r"^(?=diff --git )", content.decode(), flags=re.MULTILINE)
    mail = email.message_from_string(head, policy=email.policy.default)
    subject = re.sub(r"^\[PATCH\] ", "", " ".join(str(mail["Subject"] or "").split()))
    reason, trailers = _split_message(mail.get_payload())
    for what, good in (("subject", subject), ("reason", reason), ("diff", diffs)):
        if not good:
            raise UserError(f"{name}.patch: the header is wrong: no {what}")
    for key in ("Upstream-Status", "Origin", "Last-Update"):
        if key not in trailers:
            raise UserError(f"{name}.patch: the header is wrong: no trailer {key}")
    status, updated = trailers["Upstream-Status"], trailers["Last-Update"]
    if not STATUS.fullmatch(status):
        raise UserError(f"{name}.patch: the header is wrong: Upstream-Status is {status!r}, not {STATUS_FORMS}")
    if not _is_day(updated):
        raise UserError(f"{name}.patch: the header is wrong: Last-Update is {updated!r}, not a day as YYYY-MM-DD")
    return Patch(name, subject, reason, status, tuple(map(_parse_diff, diffs)), content)


def _split_message(body: str) -> tuple[str, dict[str, str]]:
    """Split a commit message without its subject into the reason and the trailers of the last paragraph."""
    text = re.split(r"^---$", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    reason, _, last = text.rpartition("\n\n")
    lines = re.sub(r"\n[ \t]+", " ", last).splitlines()
    trailers = [TRAILER.fullmatch(line) for line in lines]
    return (reason, {found[1]: found[2] for found in trailers if found}) if all(trailers) else (text, {})


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _parse_diff(text: str) -> FileDiff:
    added = removed = hunks = 0
    old = new = 0  # lines that the open hunk still has of each side
    is_new = False
    stray = []
    for line in text.removesuffix("\n").split("\n"):
        if old > 0 or new > 0:
            # an empty line is context whose space was stripped
            added += line[:1] == "+"
            removed += line[:1] == "-"
            old -= line[:1] in "- "
            new -= line[:1] in "+ "
        elif hunk := HUNK.match(line):
            hunks += 1
            old, new = (int(count or 1) for count in hunk.groups())
        elif line.startswith("new file mode "):
            is_new = True
        elif not line.startswith((*DIFF_LINES, "\\ ")):
            stray.append(line)
    path = re.match(r"diff --git a/\S+ b/(\S+)", text)[1]
    return FileDiff(path, is_new, added, removed, hunks, tuple(stray), text)


def own_files(patches: Iterable[Patch]) -> set[str]:
    """The files that the patches add."""
    return {diff.path for patch in patches for diff in patch.files if diff.is_new}


def base_files(patches: Iterable[Patch]) -> set[str]:
    """The files of the base that the patches change; those they add themselves are not among them."""
    patches = list(patches)
    return {diff.path for patch in patches for diff in patch.files} - own_files(patches)
