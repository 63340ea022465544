"""Screenshots: what a browser makes of the nano run's report and model card, and what is said without one."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import screenshots
from phase_twin.errors import UserError


@pytest.mark.nano
@pytest.mark.skipif(not any(map(shutil.which, screenshots.BROWSERS)), reason="no Chromium")
def test_everything_that_is_looked_at_shows_something(nano_report, root):
    nano = nano_report.parent
    command = [root / "dev/run", "screenshots", nano]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = {Path(line) for line in done.stdout.splitlines()}
    assert taken == set((nano / "screenshots").iterdir())
    assert {path.stem for path in taken} == {
        "card",
        "report",
        "pictures-kld-against-bytes",
        "pictures-sensitivity-of-layers",
        "pictures-speed",
        "pictures-time-and-memory-of-the-rules",
        "pictures-what-each-further-byte-buys",
        "tables-quality",
        "tables-speed",
        "tables-time-and-memory-of-the-rules",
        "tables-what-each-further-byte-buys",
    }


def test_an_empty_picture_is_noticed(tmp_path):
    page = np.full((900, 1440, 3), 255, np.uint8)
    # navigation alone is not worth a look
    page[:, :360] = 90
    plt.imsave(tmp_path / "empty.png", page)
    assert screenshots.ink(tmp_path / "empty.png", 360) == 0
    page[400:500, 500:600] = 30
    plt.imsave(tmp_path / "drawn.png", page)
    assert screenshots.ink(tmp_path / "drawn.png", 360) > screenshots.LEAST_INK


def test_the_card_is_rendered_as_the_hub_does():
    page = screenshots.render_card(
        "---\nlicense: mit\n---\n# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "file:///folder"
    )
    assert "license" not in page
    assert "<h1>Title</h1>" in page
    assert "<td>2</td>" in page
    assert '<base href="file:///folder/">' in page


def test_without_a_browser_or_a_report_one_line_is_said(root, tmp_path, monkeypatch):
    done = subprocess.run([root / "dev/run", "screenshots", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"screenshots: {tmp_path}/report.html is missing; `make screenshots` makes it for nano\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no Chromium found \(Debian, Ubuntu: apt install chromium\)"):
        screenshots.find_browser()
