"""Apply patches to a tree of llama.cpp."""

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError
from .series import Patch

log = logging.getLogger("phase_twin")


def git_apply(tree: Path, patch: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run `git apply` in `tree`, which need not be a repository."""
    # it may lie inside another repository, whose prefix git would apply silently
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.resolve().parent), "LC_ALL": "C"}
    command = ["git", "apply", "--whitespace=nowarn", *options]
    return subprocess.run(command, cwd=tree, env=env, input=patch, capture_output=True)


def apply_series(patches: Sequence[Patch], tree: Path) -> bool:
    """Apply the patches in order with plain `git apply`; a tree that has them all is left alone.

    Returns
    -------
    bool
        False where they were already applied.

    Raises
    ------
    UserError
        naming the patch that does not apply, with git's words.
    """
    whole = b"".join(patch.content for patch in patches)
    if git_apply(tree, whole, "--reverse", "--check").returncode == 0:
        log.info("%s: already applied", tree)
        return False
    for patch in patches:
        done = git_apply(tree, patch.content)
        if done.returncode != 0:
            raise UserError(
                f"patches/{patch.name}.patch: does not apply to {tree}: {done.stderr.decode().strip()}\n"
                f"  to mend it: dev/run patches unpack, mend the commit, dev/run patches refresh"
            )
        log.info("applied %s", patch.name)
    return True


def copy_touched(patches: Sequence[Patch], source: Path, target: Path) -> int:
    """Copy the files that the patches name from one tree to another, where there are any; return how many were."""
    there = [path for path in {diff.path for patch in patches for diff in patch.files} if (source / path).is_file()]
    for path in there:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)
    return len(there)
