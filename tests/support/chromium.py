"""A real Chromium that opens files. It runs in its own thread, because Playwright keeps an event loop in its thread."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

REQUIRED = os.environ.get("STORMBREAK_BROWSER") == "required"
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Visit:
    """The requests of a page, its console messages, and the results of the test's scripts."""

    requests: list = field(default_factory=list)
    console: list = field(default_factory=list)
    found: dict = field(default_factory=dict)


class Chromium:
    """Opens files."""

    def __init__(self, browser, thread):
        self._browser = browser
        self._thread = thread
        self._pages = {}

    def visit(self, path, width, theme, picture=None, **scripts):
        """Open a file on a screen of this width and run scripts in it; optionally save a picture of the whole page."""
        return self._thread.submit(self._visit, path, width, theme, picture, scripts).result()

    def _visit(self, path, width, theme, picture, scripts):
        """Open the file once; other widths and themes use the same page."""
        if path not in self._pages:
            self._pages[path] = self._open(path, width, theme)
        page, seen = self._pages[path]
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=theme)
        seen.found = {name: page.evaluate(script) for name, script in scripts.items()}
        if picture is not None:
            page.screenshot(path=picture, full_page=True)
        return seen

    def _open(self, path, width, theme):
        seen = Visit()
        page = self._browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.add_init_script("window.boom = () => console.log('boom')")
        page.goto(path.as_uri())
        return page, seen


@contextmanager
def chromium():
    """Start Chromium. Without it, skip the test, unless STORMBREAK_BROWSER=required."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        assert not REQUIRED, "no chromium is installed"
        pytest.skip("needs chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - takes a while

    with ThreadPoolExecutor(1) as thread:
        playwright = thread.submit(lambda: sync_playwright().start()).result()
        try:
            options = {"executable_path": path, "args": _QUIET}
            browser = thread.submit(lambda: playwright.chromium.launch(**options)).result()
            yield Chromium(browser, thread)
            thread.submit(browser.close).result()
        finally:
            thread.submit(playwright.stop).result()
