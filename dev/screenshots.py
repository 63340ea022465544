"""Take screenshots of what people look at: the report of a run, each of its pictures and tables, and the model card.

usage: dev/run screenshots RESULTS   (after a run and `snakemake --report RESULTS/report.html`; makes
RESULTS/screenshots)
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from matplotlib.image import imread
from playwright.sync_api import Error, Page, sync_playwright

from phase_twin.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = {"width": 1440, "height": 900}
# categories of the report that are opened one entry after the other
CATEGORIES = ("Pictures", "Tables")
# share of the pixels that differ from the background on the emptiest page that is worth a look
LEAST_INK = 0.005
# as the hub shows a card
CARD = """<!doctype html>
<meta charset="utf-8">
<base href="{base}/">
<style>
body {{ font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328;
       max-width: 1012px; margin: 32px auto; padding: 0 32px }}
h1, h2 {{ border-bottom: 1px solid #d1d9e0; padding-bottom: 0.3em; font-weight: 600 }}
code, pre {{ font: 85% ui-monospace, "Liberation Mono", monospace; background: #f6f8fa; border-radius: 6px }}
code {{ padding: 0.2em 0.4em }} pre {{ padding: 16px; overflow: auto }} pre code {{ padding: 0; font-size: 100% }}
table {{ border-collapse: collapse; display: block; overflow: auto }} img {{ max-width: 100% }}
th, td {{ border: 1px solid #d1d9e0; padding: 6px 13px }} tr:nth-child(2n) {{ background: #f6f8fa }}
</style>
{body}
"""


def find_browser() -> str:
    """Path of an installed Chromium."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise UserError("no Chromium found (Debian, Ubuntu: apt install chromium)")


def slug(label: str) -> str:
    """Name of a file after a label."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def render_card(markdown: str, base: str) -> str:
    """Model card as a page; `base` is the address of the folder that holds it."""
    text = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    return CARD.format(base=base, body=MarkdownIt("commonmark").enable("table").render(text))


def ink(path: Path, left: int = 0) -> float:
    """Share of a picture's pixels, from column `left` on, that differ from their commonest colour."""
    pixels = (255 * imread(path)[:, left:, :3]).astype("int64") @ (1, 256, 65536)
    _, counts = np.unique(pixels, return_counts=True)
    return 1 - float(counts.max()) / pixels.size


@contextmanager
def offline_page() -> Iterator[Page]:
    """Yield a page of a browser that reaches no network; what fails in the page is raised at the end."""
    wrong: list[str] = []
    with sync_playwright() as playwright:
        # inside a container there is nothing for the browser to make its sandbox of
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_context(viewport=WINDOW, offline=True).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"cannot load {request.url[:200]}"))
        yield page
        browser.close()
    if wrong:
        raise UserError(wrong[0])


def shoot_report(page: Page, report: Path, folder: Path) -> Iterator[Path]:
    """Yield the start page and each entry of the categories, opened as a reader does: by clicking."""
    page.goto(report.resolve().as_uri())
    # the graph of the rules is drawn last
    page.locator("svg.marks, canvas.marks").first.wait_for()
    # with all that a reader scrolls to
    height = page.locator(".prose").first.evaluate("one => one.scrollHeight")
    page.set_viewport_size(WINDOW | {"height": height + 60})
    yield shoot(page, folder / "report.png", beside_navigation(page))
    page.set_viewport_size(WINDOW)
    for category in CATEGORIES:
        page.goto(report.resolve().as_uri())
        page.locator("nav").get_by_text(category, exact=True).click()
        entries = page.locator("nav tbody tr")
        for number in range(entries.count()):
            entry = entries.nth(number)
            label = entry.locator("td").first.inner_text()
            entry.locator("a").first.click()
            page.wait_for_load_state("networkidle")
            yield shoot(page, folder / f"{slug(category)}-{slug(label)}.png", beside_navigation(page))


def beside_navigation(page: Page) -> int:
    """Column at which the report's navigation ends."""
    box = page.locator("nav").first.bounding_box()
    return int(box["x"] + box["width"]) + 1


def shoot_card(page: Page, card: Path, folder: Path) -> Path:
    """Return the model card, rendered."""
    rendered = folder / "card.html"
    rendered.write_text(render_card(card.read_text(), card.resolve().parent.as_uri()))
    page.goto(rendered.resolve().as_uri())
    rendered.unlink()
    return shoot(page, folder / "card.png", full_page=True)


def shoot(page: Page, path: Path, left: int = 0, **options: bool) -> Path:
    """Take a screenshot and return its path; refuse one with an image that cannot be shown, or empty from `left` on."""
    # "disabled": at their end
    page.screenshot(path=path, animations="disabled", **options)
    broken = page.locator("img").evaluate_all("all => all.filter(one => !one.naturalWidth).map(one => one.alt)")
    if broken:
        raise UserError(f"{path}: an image cannot be shown: {broken[0]}")
    if ink(path, left) < LEAST_INK:
        raise UserError(f"{path} is empty: see what the page shows in a browser")
    return path


def main(arguments: list[str]) -> None:
    """Take all screenshots of one folder of results."""
    if len(arguments) != 1:
        raise UserError("usage: dev/run screenshots RESULTS, the folder of a finished run")
    results = Path(arguments[0])
    report, card = results / "report.html", results / "release/README.md"
    for path in (report, card):
        if not path.exists():
            raise UserError(f"{path} is missing; `make screenshots` makes it for nano")
    folder = results / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with offline_page() as page:
        for path in (shoot_card(page, card, folder), *shoot_report(page, report, folder)):
            print(path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, Error) as error:
        sys.exit(f"screenshots: {str(error).splitlines()[0]}")
