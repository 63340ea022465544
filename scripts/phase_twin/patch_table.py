"""patches/README.md: what the series is, made from its headers and diffs."""

from collections import Counter

from .series import Patch, Series, own_files
from .sources import Engine

# of this repository: the last commit with the series for the base before
OLD_BASE, OLD_COMMIT = "b9550", "dcea5a0"

INTRODUCTION = """\
# The patches

<!-- made by `dev/run patches refresh`: change the patches or `series` instead -->

The engine is llama.cpp {tag} (commit {commit}) with these patches, in the order of `series`. New code stands in files
of ours; llama.cpp's own files get calls of it and rows of tables. The messages in the patches say why each is there.
The series for the base before, {old_base}, is in commit {old_commit} of this repository.
"""
FORMAT = """\
## The form of a patch

`TOPIC/NAME.patch`, as `git format-patch` writes it: a subject, the reason in one or two sentences, and the trailers
`Upstream-Status`, `Origin` and `Last-Update`. The status is one of:

| status | means |
|---|---|
| `Pending` | of use to llama.cpp, not offered to it yet |
| `Submitted [link]` | offered there |
| `Backport [commit]` | taken from a later llama.cpp; falls away with a base that has it |
| `Inappropriate [reason]` | not for llama.cpp |
"""
REBASE = """\
## To a new base

1. `dev/run patches try TREE` says what awaits on the new llama.cpp in TREE; `dev/run patches unpack` takes the old one.
2. In `resources/engine/work`: `git switch -q --detach base`, `git rm -rqf .`, copy TREE there without its `.git`,
   `git add -A -f`, `git commit -m base`, `git tag new`, `git rebase --onto new base series`, `git tag -f base new`.
3. Pin the new commit, tag and package in `config/sources.yaml` and remove `resources/engine/base`.
4. `snakemake --cores 2 fetch_engine` brings the new base, and stops as the blob ids are still those of the old one.
5. `dev/run patches refresh` and `dev/run patches check`; then build, and run all tests.
"""


def patch_table(series: Series, engine: Engine) -> str:
    """The text of patches/README.md."""
    ours = own_files(series.patches)
    introduction = INTRODUCTION.format(
        tag=engine.tag, commit=engine.commit[:9], old_base=OLD_BASE, old_commit=OLD_COMMIT
    )
    parts = [introduction, _totals(series, ours)]
    for topic, banner in series.banners.items():
        rows = [_row(patch, ours) for patch in series.patches if patch.topic == topic]
        if rows:
            parts.append(
                f"## {topic}: {banner}\n\n"
                "| patch | what it does | upstream | lines | files of llama.cpp | files of ours |\n"
                "|---|---|---|--:|--:|--:|\n" + "".join(rows)
            )
    return "\n".join([*parts, FORMAT, REBASE])


def _row(patch: Patch, ours: set[str]) -> str:
    name = patch.name.partition("/")[2]
    touched = {diff.path for diff in patch.files}
    cells = [
        f"[{name}]({patch.name}.patch)",
        patch.subject.replace("|", r"\|"),
        patch.status.replace("|", r"\|"),
        f"+{patch.added:,} -{patch.removed:,}",
        str(len(touched - ours)),
        str(len(touched & ours)),
    ]
    return f"| {' | '.join(cells)} |\n"


def _totals(series: Series, ours: set[str]) -> str:
    diffs = [diff for patch in series.patches for diff in patch.files]
    statuses = Counter(patch.status.partition(" ")[0] for patch in series.patches)
    counts = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items()))
    rows = []
    for where, chosen in (
        ("files of llama.cpp", [diff for diff in diffs if diff.path not in ours]),
        ("files of ours", [diff for diff in diffs if diff.path in ours]),
        ("together", diffs),
    ):
        added, removed = sum(diff.added for diff in chosen), sum(diff.removed for diff in chosen)
        rows.append(f"| {where} | {len({diff.path for diff in chosen})} | {added:,} | {removed:,} |\n")
    return (
        f"{len(series.patches)} patches: {counts}.\n\n| | files | lines added | lines removed |\n|---|--:|--:|--:|\n"
        + "".join(rows)
    )
