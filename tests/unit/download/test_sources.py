"""sources.yaml and its lock: what is wrong is told in one line."""

import os
import subprocess
import sys

import pytest

from downloads import ROOT, edit, get_text, lock_path
from phase_twin.errors import UserError
from phase_twin.sources import load_sources
from phase_twin.sources_lock import LockedText, load_lock, lock_text


def test_the_projects_sources_are_valid():
    sources = load_sources(ROOT / "config/sources.yaml")
    assert sources.engine.commit.startswith("0c1e57098")
    assert sources.checkpoints["nex-n2-mini"].repo == "nex-agi/Nex-N2-mini"
    assert sources.texts["wikitext2_test"].bytes == 1290590


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sha256": "abc"}, "texts.pinned.sha256: 'abc': "),
        ({"colour": "red"}, "texts.pinned.colour: unknown key"),
        ({"url": "http://example.org/x"}, "texts.pinned.url: 'http://example.org/x': "),
        ({"license": None}, "texts.pinned.license: None: "),
    ],
)
def test_bad_sources_are_told_in_one_line(sources, values, expected):
    edit(sources, "texts", "pinned", **values)
    with pytest.raises(UserError) as error:
        load_sources(sources)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_source_names_the_known_ones(sources, tmp_path):
    with pytest.raises(UserError, match=r"texts has no entry 'opne'; it has: member, open, pinned"):
        get_text(sources, "opne", tmp_path / "x.txt")


def test_two_writers_lose_no_entry(sources):
    script = (
        "import sys; from phase_twin.sources_lock import LockedText, lock_text\n"
        "for n in range(10):\n"
        "    lock_text(sys.argv[1], f'{sys.argv[2]}{n}', LockedText(url='u', bytes=n, sha256='0' * 64))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(lock_path(sources)), name], env=env) for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert set(load_lock(lock_path(sources)).texts) == {f"{name}{n}" for name in "abc" for n in range(10)}
    first = lock_path(sources).read_bytes()
    lock_text(lock_path(sources), "a0", LockedText(url="other", bytes=7, sha256="1" * 64))
    assert lock_path(sources).read_bytes() == first  # who was first holds
