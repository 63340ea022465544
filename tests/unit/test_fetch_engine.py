"""Fetching the engine: blob ids, and an in-place update that keeps times."""

import os
import subprocess
from pathlib import Path

import pytest

from fetch_engine import sync_tree, verify_blobs
from phase_twin.errors import UserError
from phase_twin.files import git_blob_id


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "one.c").write_text("old\n")
    return folder


def test_blob_id_is_gits(tree):
    known = subprocess.run(["git", "hash-object", tree / "one.c"], capture_output=True, text=True, check=True)
    assert git_blob_id(tree / "one.c") == known.stdout.strip()


def test_verify_blobs(tree):
    verify_blobs(tree, {"one.c": git_blob_id(tree / "one.c")}, ["one.c"])
    with pytest.raises(UserError, match=r"one\.c: git blob id is .*, pinned is 0000"):
        verify_blobs(tree, {"one.c": "0000"}, ["one.c"])
    with pytest.raises(UserError, match=r"two\.c: missing"):
        verify_blobs(tree, {"two.c": "0000"}, [])
    with pytest.raises(UserError, match="pins no blob id"):
        verify_blobs(tree, {}, ["one.c"])


def test_sync_touches_only_what_differs(tree, tmp_path):
    old = tmp_path / "old"
    (tree / "sub").mkdir()
    (tree / "sub/keep.c").write_text("same\n")
    assert sync_tree(tree, old) == 2
    os.utime(old / "sub/keep.c", (1, 1))
    (old / "gone.c").write_text("x")
    (tree / "one.c").write_text("newer\n")
    assert sync_tree(tree, old) == 2
    assert (old / "sub/keep.c").stat().st_mtime == 1
    assert (old / "one.c").read_text() == "newer\n"
    assert not (old / "gone.c").exists()
