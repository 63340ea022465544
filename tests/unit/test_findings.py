"""Findings are listed, pinned, short and clean up; running them takes a package index, so no test does."""

import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def test_the_list_is_complete():
    rows = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\) \| (\S+ \S+) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [(name, link) for name, link, _ in rows] == [(script.stem, script.name) for script in SCRIPTS]
    for script, (_, _, package) in zip(SCRIPTS, rows, strict=True):
        assert script.read_text().splitlines()[1].startswith(f"# {package} (PyPI), ")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_finding_is_a_script_of_pinned_packages(script):
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert len(text.splitlines()) < 60
    assert "trap 'rm -rf \"$work\"' EXIT" in text
    installed = re.search(r"pip\" install --quiet --disable-pip-version-check (.+)", text)[1].split()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", package) for package in installed)
