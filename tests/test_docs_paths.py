"""Every page is in the navigation, and every link to a heading has its target."""

import re
from pathlib import Path

from table_test import table_test

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page):
    return _FENCED.sub("", page.read_text())


def anchors_of(page):
    """The anchors of headings: lower case, words joined, punctuation removed."""
    for heading in _HEADING.findall(text_of(page)):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links_of(page):
    """The targets of the links of a page: the file or folder, and the heading, if any."""
    for link in _LINK.findall(text_of(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@table_test("page", PAGES)
def test_every_link_to_a_heading_has_its_heading(page):
    wanted = [(target, anchor) for target, anchor in links_of(page) if anchor]
    assert [(t.name, anchor) for t, anchor in wanted if anchor not in anchors_of(t)] == []


def test_every_page_is_in_the_navigation_of_the_site():
    """The navigation consists of the links of docs/README.md; the page of decisions lists its folder."""
    index, decisions = ROOT / "docs" / "README.md", ROOT / "docs" / "adr"
    linked = {target for target, anchor in links_of(index) if not anchor}
    shown = {index, *linked, *decisions.iterdir()}
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in shown] == []
