"""Makes the pictures of docs/reports.md and of the README anew: real runs, and a real browser that looks at their reports.

python bench/screenshots.py [incident] [batch]
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from stormbreak.cli.main import main
from stormbreak.testing import serve

DOCS = Path(__file__).parent.parent / "docs"
WIDE, NARROW = (1280, 1560), (390, 1560)  # what is shown of a page
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
COLOURS, ROUNDS = 256, 3
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
INCIDENT = ["storm", "run", "incident", "--compare", "naive,article", "--jobs", "2"]
SHORT = ["--duration", "300"]  # the README's command takes seconds

ROWS = 2000
STORM = """
duration = 60
[provider]
slots = 40
service = 0.3
variation = 0.6
queue = 60
[[faults]]
kind = "503"
share = 0.05
[[faults]]
kind = "429"
share = 0.3
retry_after = 1
at = 4
until = 9
[[faults]]
kind = "down"
at = 11
until = 15
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


def look(report: Path, name: str) -> None:
    """Take pictures of a report in each width and theme."""
    with chromium() as browser:
        for width, height in (WIDE, NARROW):
            for theme in THEMES:
                screen = ViewportSize(width=width, height=height)
                page = browser.new_page(viewport=screen, color_scheme=theme)
                page.goto(report.absolute().as_uri())
                path = DOCS / f"report-{name}-{width}-{theme}.png"
                page.screenshot(path=path)
                shrink(path)
                page.close()


def shrink(path: Path) -> None:
    """Save a picture with a palette."""
    picture = Image.open(path).convert("RGB")
    # MAXCOVERAGE keeps colours that are rare: those of thin lines. The rounds keep those of large areas as they are.
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    picture.quantize(COLOURS, method, kmeans=ROUNDS, dither=dither).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def incident() -> None:
    """The storm: the picture of the README, and the page."""
    for report, watch in (("incident.png", SHORT), ("incident.html", [])):
        if main([*INCIDENT, *watch, "--report", report]):
            sys.exit(f"{report} was not made")
    shutil.copyfile("incident.png", DOCS / "incident.png")
    look(Path("incident.html"), "storm")


def batch() -> None:
    """A batch through a storm of its own."""
    source, scenario, report = map(Path, ("prompts.jsonl", "storm.toml", "report.html"))
    scenario.write_text(STORM)
    rows = ({"prompt": f"About product {number}", "model": "gpt-4.1"} for number in range(ROWS))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve(scenario) as provider:
        args = ["--output", "answers.jsonl", "--base-url", provider.base_url]
        main(["batch", "run", str(source), *args, "--report", str(report)])
    look(report, "batch")


if __name__ == "__main__":
    for make in (incident, batch):
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            # A page names the files as they were given.
            with TemporaryDirectory() as directory, chdir(directory):
                make()
