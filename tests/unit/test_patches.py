"""The patch series: reading and checking it, unpacking and refreshing, trying it on another tree."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import patches
from phase_twin.apply_patches import apply_series
from phase_twin.errors import UserError
from phase_twin.files import git_blob_id
from phase_twin.series import base_files, own_files, parse_patch, read_series
from phase_twin.try_patches import base_steps, try_series

HEADER = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: Someone <someone@example.org>
Date: Mon, 5 Jan 2026 00:00:00 +0000
Subject: [PATCH] {subject}

One word was old.

Upstream-Status: {status}
Origin: phase-twin
Last-Update: 2026-01-05

"""
WORD = (
    HEADER.format(subject="one : say new", status="Pending")
    + """\
diff --git a/one.c b/one.c
index 8ad6f6c..1a9e0f1 100644
--- a/one.c
+++ b/one.c
@@ -3,7 +3,7 @@
 a
 b
 c
-old
+new
 d
 e
 f
"""
)
FILE = (
    HEADER.format(
        subject="two : a file that is added, with a subject so long that it is folded in\n its header",
        status="Inappropriate [ours]",
    )
    + """\
diff --git a/one.c b/one.c
index 1a9e0f1..5b8b1ab 100644
--- a/one.c
+++ b/one.c
@@ -14,3 +14,4 @@ j
 k
 l
 m
+#include "two.h"
diff --git a/two.h b/two.h
new file mode 100644
index 0000000..d5f7fc3
--- /dev/null
+++ b/two.h
@@ -0,0 +1 @@
+added
"""
)
ONE = "x y a b c old d e f g h i j k l m".replace(" ", "\n") + "\n"
SERIES = """\
# words: what is said
words/say-new.patch

# files: what is added
files/two.patch
"""
SOURCES = {
    "engine": {
        "git": "https://example.org/llama.cpp",
        "commit": "0" * 40,
        "tag": "b1",
        "license": "MIT",
        "sdist": {
            "package": "some",
            "version": "1",
            "bytes": 1,
            "sha256": "0" * 64,
            "subdir": "vendor",
            "license": "MIT",
        },
        "blobs": {"gone.c": "0" * 40},
    },
    "texts": {},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    patches.BASE.mkdir(parents=True)
    (patches.BASE / ".origin").write_text("sdist\n")
    (patches.BASE / "one.c").write_text(ONE)
    (patches.BASE / "other.c").write_text("not touched\n")
    for name, text in (("words/say-new", WORD), ("files/two", FILE)):
        path = patches.PATCHES / f"{name}.patch"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (patches.PATCHES / "series").write_text(SERIES)
    patches.SOURCES.parent.mkdir()
    patches.SOURCES.write_text(yaml.safe_dump(SOURCES, indent=2, sort_keys=False))
    return tmp_path


def work(*arguments: str) -> None:
    subprocess.run(["git", "-C", patches.WORK, *arguments], check=True, capture_output=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- reading


def test_what_a_patch_is(project):
    series = read_series(patches.PATCHES)
    assert series.text == SERIES
    first, second = series.patches
    assert (first.name, first.topic, first.subject, first.reason) == (
        "words/say-new",
        "words",
        "one : say new",
        "One word was old.",
    )
    assert (first.added, first.removed, first.hunks, second.added, second.removed) == (1, 1, 1, 2, 0)
    assert second.subject.endswith("that it is folded in its header")
    assert second.status == "Inappropriate [ours]"
    assert base_files(series.patches) == {"one.c"}
    assert own_files(series.patches) == {"two.h"}


def test_lines_that_look_like_a_header_in_a_hunk():
    text = WORD.replace("@@ -3,7 +3,7 @@", "@@ -3,8 +3,8 @@").replace("-old\n+new\n", "--- a/x\n-old\n+++ b/x\n+new\n")
    (diff,) = parse_patch("words/x", text.encode()).files
    assert (diff.path, diff.added, diff.removed, diff.stray) == ("one.c", 2, 2, ())


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (SERIES + "files/two.patch\n", r"series:6: files/two\.patch is listed twice"),
        (SERIES + "files/three.patch\n", r"files/three\.patch is listed but missing"),
        (SERIES.replace("files/two.patch", ""), r"files/two\.patch: not listed in patches/series"),
        (SERIES + "words/more.patch\n", r"series:6: words/more\.patch does not stand under the banner of its topic"),
        (SERIES + "# words: again\n", "series:6: topic words has two banners"),
        (SERIES + "0003-three.patch\n", r"'0003-three\.patch' is neither"),
        (SERIES + "files/3-three.patch\n", "is neither `# topic: what it is about` nor topic/name.patch"),
        (SERIES + "# a remark\n", "'# a remark' is neither"),
    ],
)
def test_a_wrong_list_is_told(project, series, message):
    (patches.PATCHES / "series").write_text(series)
    with pytest.raises(UserError, match=message):
        read_series(patches.PATCHES)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("One word was old.\n\n", "", "no reason"),
        ("Subject: [PATCH] one : say new\n", "", "no subject"),
        ("Origin: phase-twin\n", "", "no trailer Origin"),
        ("Last-Update: 2026-01-05", "Last-Update: 2026-02-30", "Last-Update is '2026-02-30', not a day"),
        ("Status: Pending", "Status: Inappropriate", "Upstream-Status is 'Inappropriate', not Pending, Inappropriate "),
        ("Status: Pending", "Status: Submitted [soon]", "Upstream-Status is 'Submitted .soon.'"),
        ("Status: Pending", "Status: Backport [#123]", "Upstream-Status is 'Backport .#123.'"),
        (WORD[WORD.index("diff") :], "", "no diff"),
    ],
)
def test_a_wrong_header_is_told(right, wrong, message):
    assert right in WORD
    with pytest.raises(UserError, match=rf"^words/x\.patch: the header is wrong: {message}"):
        parse_patch("words/x", WORD.replace(right, wrong).encode())


@pytest.mark.parametrize(
    "status", ["Pending", "Inappropriate [a type]", "Backport [#28068 1a2b3c4]", "Submitted [https://example.org/1]"]
)
def test_right_statuses(status):
    assert parse_patch("words/x", WORD.replace("Pending", status).encode()).status == status


# ---------------------------------------------------------------- applying


def test_series_applies_inside_another_repository_and_only_once(project):
    subprocess.run(["git", "init", "-q", project], check=True)
    series = read_series(patches.PATCHES)
    assert apply_series(series.patches, patches.BASE) is True
    assert (patches.BASE / "one.c").read_text() == ONE.replace("old", "new") + '#include "two.h"\n'
    assert (patches.BASE / "two.h").read_text() == "added\n"
    before = contents(patches.BASE)
    assert apply_series(series.patches, patches.BASE) is False
    assert contents(patches.BASE) == before


def test_a_patch_that_does_not_apply_is_named(project):
    (patches.BASE / "one.c").write_text("something else\n")
    with pytest.raises(UserError, match=r"words/say-new\.patch: does not apply"):
        apply_series(read_series(patches.PATCHES).patches, patches.BASE)


# ---------------------------------------------------------------- unpack and refresh


def test_unpacked_and_refreshed_nothing_changes(project):
    patches.readme()
    patches.unpack()
    assert (patches.WORK / "two.h").read_text() == "added\n"
    patches.refresh()  # pins the blob, and brings git's own ids
    before = contents(patches.PATCHES) | contents(project / "config")
    subprocess.run(["rm", "-rf", patches.WORK], check=True)
    patches.unpack()
    patches.refresh()
    assert contents(patches.PATCHES) | contents(project / "config") == before
    assert (patches.PATCHES / "series").read_text() == SERIES
    assert b"Patch: " not in (patches.PATCHES / "words/say-new.patch").read_bytes()
    assert load_blobs() == {"one.c": git_blob_id(patches.BASE / "one.c")}
    patches.check()


def load_blobs() -> dict[str, str]:
    return yaml.safe_load(patches.SOURCES.read_text())["engine"]["blobs"]


MESSAGE = "three : add it\n\nA reason.\n\n{}Upstream-Status: Pending\nOrigin: phase-twin\nLast-Update: 2026-01-06"


def commit_three(trailer: str) -> None:
    (patches.WORK / "three.c").write_text("third\r\n")
    work("add", ".")
    work("commit", "-q", "-m", MESSAGE.format(trailer))


def test_a_commit_becomes_a_patch(project):
    patches.unpack()
    work("reset", "-q", "--hard", "HEAD~")
    commit_three("Patch: more/third\n")
    with pytest.raises(UserError, match=r"series has no banner for more: add a line `# more: what it is about`"):
        patches.refresh()
    with open(patches.PATCHES / "series", "a") as series:
        series.write("# more: what else\n")
    patches.refresh()
    assert (patches.PATCHES / "series").read_text() == (
        "# words: what is said\nwords/say-new.patch\n\n# more: what else\nmore/third.patch\n"
    )
    assert not (patches.PATCHES / "files").exists()
    assert b"+third\r\n" in (patches.PATCHES / "more/third.patch").read_bytes()
    patches.check()


@pytest.mark.parametrize(
    ("trailer", "message"),
    [
        ("", r"\(three : add it\) has no trailer `Patch: topic/name`"),
        ("Patch: files/two\n", r"two commits have the trailer `Patch: files/two`"),
        ("Patch: words/three\n", "topic words do not stand together"),
    ],
)
def test_a_commit_without_its_place_is_told(project, trailer, message):
    patches.unpack()
    commit_three(trailer)
    before = contents(patches.PATCHES)
    with pytest.raises(UserError, match=message):
        patches.refresh()
    assert contents(patches.PATCHES) == before


def test_to_a_new_base(project):
    """The steps that patches/README.md gives."""
    patches.unpack()
    work("switch", "-q", "--detach", "base")
    work("rm", "-rqf", ".")
    newer = ONE.replace("a\n", "A\n")  # in the context of the first patch
    (patches.WORK / "one.c").write_text(newer)
    work("add", "-A", "-f")
    work("commit", "-m", "base")
    work("tag", "new")
    work("rebase", "--onto", "new", "base", "series")
    work("tag", "-f", "base", "new")
    (patches.BASE / "one.c").write_text(newer)
    (patches.BASE / "other.c").unlink()
    with pytest.raises(UserError, match="does not apply"):
        patches.apply_series(read_series(patches.PATCHES).patches, patches.BASE)
    patches.refresh()
    patches.check()
    assert (patches.PATCHES / "series").read_text() == SERIES


def test_a_conflict_prints_what_to_run(project):
    (patches.BASE / "one.c").write_text("other\n")
    with pytest.raises(UserError, match=r"(?s)words/say-new\.patch does not apply.*git am --continue"):
        patches.unpack()


def test_unpack_keeps_work_in_progress(project):
    patches.unpack()
    with pytest.raises(UserError, match="refresh from it, or remove it first"):
        patches.unpack()


# ---------------------------------------------------------------- check


@pytest.fixture
def checked(project):
    patches.unpack()
    patches.refresh()
    return project


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("patches/files/two.patch", "+added\n", "+added\n-- \n2.39.5\n", "two.patch: two.h: '-- ' belongs to no hunk"),
        ("patches/series", "\n\n", "\n", "series: blank lines or banners are not as refresh writes them"),
        ("patches/README.md", "say new", "say", "README.md is out of date: dev/run patches readme"),
        ("config/sources.yaml", "one.c", "two.c", "one.c: the patch series changes it but"),
        ("resources/engine/base/one.c", "old", "odd", "one.c: git blob id is"),
        ("patches/files/two.patch", " k\n", " K\n", "files/two.patch: does not apply"),
    ],
)
def test_check_tells_what_is_wrong(checked, path, old, new, message):
    patches.check()
    text = (checked / path).read_text()
    assert old in text
    (checked / path).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=re.escape(message)):
        patches.check()


def test_readme(checked):
    text = patches.README.read_text()
    assert "The engine is llama.cpp b1 (commit 000000000)" in text
    assert "2 patches: Inappropriate 1, Pending 1.\n" in text
    assert "| files of llama.cpp | 1 | 2 | 1 |\n| files of ours | 1 | 1 | 0 |\n| together | 2 | 3 | 1 |\n" in text
    assert "## words: what is said\n" in text
    assert "| [say-new](words/say-new.patch) | one : say new | Pending | +1 -1 | 1 | 0 |\n" in text
    assert "header | Inappropriate [ours] | +2 -0 | 1 | 1 |\n" in text


# ---------------------------------------------------------------- try


def outcomes(tree: Path, merged: bool) -> list[str]:
    series = read_series(patches.PATCHES).patches
    return [str(outcome) for outcome in try_series(series, tree, base_steps(series, patches.BASE) if merged else None)]


@pytest.fixture
def tree(project):
    folder = project / "tree"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("merged", [True, False], ids=["three ways", "less context"])
def test_try(tree, merged):
    (tree / "one.c").write_text(ONE)
    assert outcomes(tree, merged) == ["clean    words/say-new", "clean    files/two"]
    (tree / "one.c").write_text("more\n" * 9 + ONE)
    assert outcomes(tree, merged) == ["clean    words/say-new", "clean    files/two"]
    (tree / "one.c").write_text(ONE.replace("a\n", "A\n"))
    assert outcomes(tree, merged) == ["fuzz     words/say-new: 1 of 1 hunks by a merge", "clean    files/two"]
    (tree / "one.c").write_text(ONE.replace("old", "odd"))
    conflict = "conflict words/say-new\n      one.c: 1 in conflict of those hunks at lines 3"
    assert outcomes(tree, merged) == [conflict, "clean    files/two"]
    (tree / "two.h").write_text("theirs\n")
    assert outcomes(tree, merged)[1] == "conflict files/two\n      two.h: there is such a file already"
    (tree / "one.c").unlink()
    assert outcomes(tree, merged)[0] == "conflict words/say-new\n      one.c: is missing"
    (tree / "one.c").write_text(ONE.replace("old", "new"))
    assert outcomes(tree, merged)[0] == "already applied words/say-new"
    assert contents(tree) == {f"{tree}/one.c": ONE.replace("old", "new").encode(), f"{tree}/two.h": b"theirs\n"}


def test_later_patches_are_judged_as_if_a_conflict_was_mended(tree):
    later = WORD.replace("-old\n+new\n", "-new\n+newest\n")
    (patches.PATCHES / "words/newest.patch").write_text(later)
    (patches.PATCHES / "series").write_text(SERIES.replace("new.patch\n", "new.patch\nwords/newest.patch\n"))
    (tree / "one.c").write_text(ONE.replace("old", "odd"))
    assert [line.split()[0] for line in outcomes(tree, merged=True)] == ["conflict", "clean", "clean"]
    assert [line.split()[0] for line in outcomes(tree, merged=False)] == ["conflict", "conflict", "clean"]


def test_try_finds_the_tree_of_an_sdist_and_tells_the_tally(project, capsys):
    vendored = project / "some-1.0/vendor/llama.cpp"
    vendored.mkdir(parents=True)
    (vendored / "one.c").write_text(ONE)
    assert patches.try_on(project / "some-1.0") == 0
    printed = capsys.readouterr().out
    assert printed == "  1/2 clean    words/say-new\n  2/2 clean    files/two\n2 clean\n"
    (vendored / "one.c").write_text(ONE.replace("old", "odd"))
    assert patches.try_on(project / "some-1.0") == 1
    assert capsys.readouterr().out.endswith("\n1 conflict, 1 clean\n")
    with pytest.raises(UserError, match="none of the files that the series changes is there"):
        patches.try_on(project / "some-1.0/vendor")


# ---------------------------------------------------------------- the series itself


def test_the_series_is_whole(root, monkeypatch):
    monkeypatch.chdir(root)
    series = read_series(patches.PATCHES)
    assert [(patch.name, diff.stray) for patch in series.patches for diff in patch.files if diff.stray] == []
    assert (patches.PATCHES / "series").read_text() == series.text
    patches.check_readme()
