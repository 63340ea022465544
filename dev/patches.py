#!/usr/bin/env python3
"""Edit the patch series as git commits, check it, and try it on another llama.cpp.

unpack puts the pristine base and one commit per patch into resources/engine/work. The trailer `Patch: topic/name` that
each commit gets there names its file. refresh writes the commits back to patches/, with its README, and pins the blob
ids of the files they change; a new topic needs its banner in patches/series before.

unpack, refresh and check need resources/engine/base, which the rule fetch_engine brings; try merges better with it. Run
it from the project's folder.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from fetch_engine import verify_blobs
from phase_twin.apply_patches import apply_series, copy_touched
from phase_twin.errors import UserError
from phase_twin.files import git_blob_id, write_text
from phase_twin.patch_table import patch_table
from phase_twin.series import NAME, Patch, Series, base_files, parse_patch, read_list, read_series
from phase_twin.sources import load_sources
from phase_twin.try_patches import base_steps, try_series

BASE = Path("resources/engine/base")
WORK = Path("resources/engine/work")
PATCHES = Path("patches")
README = PATCHES / "README.md"
SOURCES = Path("config/sources.yaml")

# neutral names and dates: the same commits give the same patch files
FORMAT = ["--zero-commit", "--no-signature", "--no-numbered", "--no-stat", "-N", "--no-renames"]


def git(*arguments: str | Path) -> str:
    """Run git in the work tree and return what it printed, line ends as they are."""
    done = subprocess.run(["git", "-C", WORK, *arguments], capture_output=True)
    if done.returncode != 0:
        raise UserError(f"git {arguments[0]} in {WORK}: {done.stderr.decode().strip()}")
    return done.stdout.decode()


def need_base() -> None:
    """Refuse to go on without the pristine base."""
    if not (BASE / ".origin").exists():
        raise UserError(f"{BASE} is missing: snakemake --cores 2 fetch_engine")


def unpack() -> None:
    """Make the work tree: tag `base`, then one commit per patch."""
    need_base()
    series = read_series(PATCHES)
    if WORK.exists():
        raise UserError(f"{WORK} exists: refresh from it, or remove it first")
    shutil.copytree(BASE, WORK, symlinks=True)
    git("init", "-q", "-b", "series")
    git("config", "user.name", "Phase Twin")
    git("config", "user.email", "dev@phase-twin.invalid")
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "base")
    git("tag", "base")
    mails = WORK.resolve() / ".git/mails"
    mails.mkdir()
    for number, patch in enumerate(series.patches):
        named = re.sub(
            rb"^(?=Upstream-Status: )", f"Patch: {patch.name}\n".encode(), patch.content, count=1, flags=re.MULTILINE
        )
        (mails / f"{number:04}").write_bytes(named)
    try:
        git("am", "-q", "--keep-cr", *sorted(mails.iterdir()))
    except UserError as error:
        number = int((WORK / ".git/rebase-apply/next").read_text())
        raise UserError(
            f"{series.patches[number - 1].name}.patch does not apply: {error}\n"
            f"  cd {WORK}; git am --show-current-patch=diff; mend and `git add` the files; git am --continue\n"
            f"  it goes on with the others; then: dev/run patches refresh"
        ) from error
    print(f"{WORK}: amend, add or reorder the commits after the tag `base`, then: dev/run patches refresh")


def refresh() -> None:
    """Write the series, its README and the pinned blob ids from the commits after `base`."""
    need_base()
    known = read_list(PATCHES / "series")[0]
    patches = [commit_patch(commit) for commit in git("rev-list", "--reverse", "--no-merges", "base..").split()]
    groups = [topic for topic, _ in groupby(patch.topic for patch in patches)]
    for topic in groups:
        if topic not in known:
            raise UserError(f"{PATCHES}/series has no banner for {topic}: add a line `# {topic}: what it is about`")
        if groups.count(topic) > 1:
            raise UserError(f"the commits of topic {topic} do not stand together: reorder them with git rebase -i")
    if names := [name for name, count in Counter(patch.name for patch in patches).items() if count > 1]:
        raise UserError(f"two commits have the trailer `Patch: {names[0]}`: squash them, or rename one")
    series = Series({topic: known[topic] for topic in groups}, tuple(patches))
    wanted = {PATCHES / f"{patch.name}.patch": patch.content for patch in patches}
    for path in PATCHES.rglob("*.patch"):
        if path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    for folder in filter(Path.is_dir, PATCHES.iterdir()):
        if not any(folder.iterdir()):
            folder.rmdir()
    write_text(PATCHES / "series", series.text)
    touched = sorted(base_files(patches))
    pins = "".join(f"    {path}: {git_blob_id(BASE / path)}\n" for path in touched)
    write_text(SOURCES, re.sub(r"  blobs:.*\n(?:    .*\n)*", lambda _: f"  blobs:\n{pins}", SOURCES.read_text()))
    write_text(README, patch_table(series, load_sources(SOURCES).engine))
    print(f"{len(patches)} patches in {PATCHES}, {len(touched)} blob ids in {SOURCES}")


def commit_patch(commit: str) -> Patch:
    """The patch that a commit in the work tree is; its trailer `Patch` names it and is not part of it."""
    text = git("format-patch", "-1", "--stdout", *FORMAT, commit)
    head = text.partition("\ndiff --git ")[0]
    name = re.search(r"^Patch: (.*)\n", head, re.MULTILINE)
    if not name or not NAME.fullmatch(name[1]):
        raise UserError(
            f"commit {commit[:9]} ({git('log', '-1', '--format=%s', commit).strip()}) has no trailer "
            f"`Patch: topic/name` in front of Upstream-Status, which gives the file's name"
        )
    return parse_patch(name[1], (text[: name.start()] + text[name.end() :]).encode())


def check() -> None:
    """Check the headers, that the patches apply to the base without fuzz, and what is made from them."""
    need_base()
    series = read_series(PATCHES)
    for patch in series.patches:
        for diff in patch.files:
            if diff.stray:
                raise UserError(f"{PATCHES}/{patch.name}.patch: {diff.path}: {diff.stray[0]!r} belongs to no hunk")
    check_readme()
    if (PATCHES / "series").read_text() != series.text:
        raise UserError(f"{PATCHES}/series: blank lines or banners are not as refresh writes them")
    verify_blobs(BASE, load_sources(SOURCES).engine.blobs, base_files(series.patches))
    with tempfile.TemporaryDirectory() as folder:
        copy_touched(series.patches, BASE, Path(folder))
        apply_series(series.patches, Path(folder))
        if apply_series(series.patches, Path(folder)):
            raise UserError(f"{PATCHES}: applied twice, the series is not seen to be there already")
    print(f"{len(series.patches)} patches: headers complete, all apply to {BASE}")


def check_readme() -> None:
    """Compare patches/README.md with what would be written."""
    if not README.exists() or README.read_text() != readme_text():
        raise UserError(f"{README} is out of date: dev/run patches readme")


def readme_text() -> str:
    """What patches/README.md should hold."""
    return patch_table(read_series(PATCHES), load_sources(SOURCES).engine)


def readme() -> None:
    """Write patches/README.md."""
    write_text(README, readme_text())


def try_on(tree: Path) -> int:
    """Try the series on the llama.cpp in `tree`; return 1 where there is a conflict."""
    series = read_series(PATCHES)
    steps = None
    if (BASE / ".origin").exists():
        try:
            steps = base_steps(series.patches, BASE)
        except UserError as error:
            print(f"no merges in three ways: {error}", file=sys.stderr)
    tally: Counter[str] = Counter()
    for number, outcome in enumerate(try_series(series.patches, tree, steps), 1):
        print(f"{number:3}/{len(series.patches)} {outcome}", flush=True)
        tally[outcome.word] += 1
    print(", ".join(f"{count} {word}" for word, count in tally.items()))
    return int("conflict" in tally)


COMMANDS: dict[str, Callable[..., int | None]] = {
    "unpack": unpack,
    "refresh": refresh,
    "check": check,
    "readme": readme,
    "try": try_on,
}


def main() -> int:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        if name == "try":
            command.add_argument("tree", type=Path, help="folder of a llama.cpp, or of an unpacked sdist with one")
    given = vars(parser.parse_args())
    try:
        return COMMANDS[given.pop("command")](**given) or 0
    except UserError as error:
        print(f"patches: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
