"""Try the series on another tree of llama.cpp: what applies, what needs a merge, what is in conflict."""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .apply_patches import apply_series, copy_touched, git_apply
from .errors import UserError
from .series import FileDiff, Patch

# content of a file before and after a patch, None where there is none
Step = tuple[bytes | None, bytes | None]


@dataclass
class Outcome:
    """How one patch fared: hunks that needed a merge, and per file what is in conflict."""

    patch: Patch
    already: bool = False
    merged: int = 0
    conflicts: dict[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The outcome in a word."""
        if self.already:
            return "already applied"
        return "conflict" if self.conflicts else "fuzz" if self.merged else "clean"

    def __str__(self) -> str:
        words = [f"{self.word:8} {self.patch.name}"]
        if self.merged:
            words.append(f": {self.merged} of {self.patch.hunks} hunks by a merge")
        return "".join([*words, *(f"\n      {path}: {what}" for path, what in self.conflicts.items())])


def find_tree(folder: Path) -> Path:
    """The tree of llama.cpp that `folder` is, or carries as an unpacked sdist does."""
    vendored = folder / "vendor/llama.cpp"
    return vendored if vendored.is_dir() else folder


def base_steps(patches: Sequence[Patch], base: Path) -> dict[tuple[str, str], Step]:
    """What each patch makes of each file on the base, by names of patch and file.

    Raises
    ------
    UserError
        if the series does not apply to the base.
    """
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_touched(patches, base, tree)
        for patch in patches:
            before = {diff.path: _content(tree / diff.path) for diff in patch.files}
            apply_series([patch], tree)
            steps |= {(patch.name, path): (old, _content(tree / path)) for path, old in before.items()}
    return steps


def try_series(
    patches: Sequence[Patch], folder: Path, steps: dict[tuple[str, str], Step] | None = None
) -> Iterator[Outcome]:
    """Apply the patches to a copy of the tree in `folder`, which stays as it is.

    What does not apply as it stands is merged: in three ways where `steps` (of `base_steps`) are given, else with one
    line of context. After a conflict the rest of the patch is applied, in three ways with the patch's side of the
    conflict, so that later patches are judged as if it was mended.

    Raises
    ------
    UserError
        if the folder has none of the files.
    """
    with tempfile.TemporaryDirectory() as copy:
        tree = Path(copy)
        if not copy_touched(patches, find_tree(folder), tree):
            raise UserError(f"{folder}: none of the files that the series changes is there; is it llama.cpp?")
        for patch in patches:
            outcome = Outcome(patch, git_apply(tree, patch.content, "--reverse", "--check").returncode == 0)
            for diff in () if outcome.already else patch.files:
                _try_file(outcome, diff, tree, (steps or {}).get((patch.name, diff.path), (None, None)))
            yield outcome


def _try_file(outcome: Outcome, diff: FileDiff, tree: Path, step: Step) -> None:
    content = diff.text.encode()
    if git_apply(tree, content).returncode == 0:
        return
    path = tree / diff.path
    if diff.is_new or not path.exists():
        outcome.conflicts[diff.path] = "there is such a file already" if diff.is_new else "is missing"
        return
    failed = _failed_hunks(tree, content)
    before, after = step
    if before is not None and after is not None:
        count, merged = _merge(path.read_bytes(), before, after)
        path.write_bytes(merged)
        at = failed
    else:
        at = _failed_hunks(tree, content, "-C1")
        count = len(at)
        git_apply(tree, content, "-C1", "--reject")
        path.with_name(path.name + ".rej").unlink(missing_ok=True)
    if count:
        lines = ", ".join(map(str, at))
        outcome.conflicts[diff.path] = f"{count} in conflict of those hunks at lines {lines}"
    outcome.merged += max(0, len(failed) - count)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _failed_hunks(tree: Path, patch: bytes, *options: str) -> list[int]:
    """First lines, before the patch, of the hunks that do not apply."""
    said = git_apply(tree, patch, "--check", "--reject", *options).stderr.decode(errors="replace")
    return [int(line) for line in re.findall(r"^error: patch failed: .*:(\d+)$", said, re.MULTILINE)]


def _merge(mine: bytes, before: bytes, after: bytes) -> tuple[int, bytes]:
    """Merge in three ways; return the number of conflicts, and the result with what is `after` in each."""
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder, name) for name in ("mine", "before", "after")]
        for name, content in zip(names, (mine, before, after), strict=True):
            name.write_bytes(content)
        command = ["git", "merge-file", "-p"]
        conflicts = subprocess.run([*command, *names], capture_output=True).returncode
        merged = subprocess.run([*command, "--theirs", *names], capture_output=True, check=True).stdout
    return conflicts, merged
