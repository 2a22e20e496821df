"""A reader who starts at README.md finds every page, and every link to a heading finds its heading."""

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
    """The names by which headings are linked to: lower case, words joined, marks left out."""
    for heading in _HEADING.findall(text_of(page)):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links_of(page):
    """Where the links of a page lead: the file or folder, and the heading, if any."""
    for link in _LINK.findall(text_of(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@table_test("page", PAGES)
def test_a_link_to_a_heading_finds_it(page):
    wanted = [(target, anchor) for target, anchor in links_of(page) if anchor]
    assert [(t.name, anchor) for t, anchor in wanted if anchor not in anchors_of(t)] == []


def test_every_page_is_found_from_the_readme():
    found, ahead = set(), [ROOT / "README.md"]
    while ahead:
        place = ahead.pop()
        if place in found:
            continue
        found.add(place)
        if place.is_dir():
            ahead += place.glob("*.md")
        elif place.suffix == ".md":
            ahead += [target for target, _ in links_of(place)]
    assert sorted(str(page.relative_to(ROOT)) for page in set(PAGES) - found) == []
