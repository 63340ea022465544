"""The helper for the patch series: unpack, change a commit, refresh."""

import subprocess

import pytest

import patches
from phase_twin.files import git_blob_id

SERIES_PATCH = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: Someone <someone@example.org>
Date: Mon, 5 Jan 2026 00:00:00 +0000
Subject: [PATCH] one : say new

---
diff --git a/one.c b/one.c
--- a/one.c
+++ b/one.c
@@ -1 +1 @@
-old
+new
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    patches.BASE.mkdir(parents=True)
    (patches.BASE / ".origin").write_text("sdist\n")
    (patches.BASE / "one.c").write_text("old\n")
    patches.PATCHES.mkdir()
    (patches.PATCHES / "0001-one-say-new.patch").write_text(SERIES_PATCH)
    patches.SERIES.write_text("0001-one-say-new.patch\n")
    patches.SOURCES.parent.mkdir()
    patches.SOURCES.write_text("engine:\n  blobs:\n    gone.c: 0000\n\ntexts: {}\n")
    return tmp_path


def test_a_commit_becomes_a_patch_with_pinned_blobs(project):
    patches.unpack()
    assert (patches.WORK / "one.c").read_text() == "new\n"
    (patches.WORK / "two.c").write_text("added\n")
    subprocess.run(["git", "-C", patches.WORK, "add", "."], check=True)
    subprocess.run(["git", "-C", patches.WORK, "commit", "-q", "-m", "two : add it"], check=True)
    patches.refresh()
    assert patches.SERIES.read_text().split() == ["0001-one-say-new.patch", "0002-two-add-it.patch"]
    blob = git_blob_id(patches.BASE / "one.c")
    assert patches.SOURCES.read_text() == f"engine:\n  blobs:\n    one.c: {blob}\n\ntexts: {{}}\n"


def test_a_conflict_prints_what_to_run(project):
    (patches.BASE / "one.c").write_text("other\n")
    with pytest.raises(SystemExit, match=r"(?s)0001-one-say-new\.patch does not apply.*git am --continue"):
        patches.unpack()


def test_unpack_keeps_work_in_progress(project):
    patches.unpack()
    with pytest.raises(SystemExit, match="refresh from it, or remove it first"):
        patches.unpack()
