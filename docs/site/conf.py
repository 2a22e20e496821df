# ruff: noqa: INP001 - read by Sphinx, no part of a package
"""Build the documentation site from the Markdown of the repository: `make docs`.

The pages stay plain Markdown. What only the site has is added while a page is read: the navigation, from the links of
docs/README.md; the reference of the command line, from click; the reference of the API, from the docstrings.
"""

import re
import shutil
import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

sys.path.insert(0, str(Path(__file__).parent))

import reference

ROOT = Path(__file__).parents[2]
INDEX = "docs/README"
CHILDREN = {  # pages below another one in the navigation
    "docs/sdks": "docs/sdks/*",
    "docs/comparison": "docs/from/*",
    "docs/adr/README": "docs/adr/*",
}

project = "stormbreak"
html_title = "stormbreak"
language = "en"
root_doc = "README"
exclude_patterns = [
    "docs/site",
    *(
        place.name
        for place in ROOT.iterdir()
        if place.name != "docs" and not place.name.endswith(".md")
    ),
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 4  # as code hosts do
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as in the source, not the repr of a value
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "both"
python_use_unqualified_type_names = True
maximum_signature_line_length = 70
add_module_names = False
smartquotes_action = "D"  # dashes only: quotes are copied from here
lexers["jsonl"] = JsonLexer()
default_role = "code"  # docstrings mark code as Markdown does
templates_path: list[str] = []

html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
copybutton_exclude = (
    ".linenos, .gp, .go"  # a console block is copied without its prompts and output
)

_EVENTS = re.compile(r"(stormbreak\.events\.)?Labelled \| .*?WouldHave", re.DOTALL)
_PAGE = re.compile(r"docs/([\w/]+)\.md")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def navigation() -> str:
    """Return a toctree for each section of docs/README.md, with the pages that it links to, each once."""
    trees, seen = [], {root_doc}
    for section in re.split(r"^## ", (ROOT / f"{INDEX}.md").read_text(), flags=re.MULTILINE)[1:]:
        entries = [] if trees else [f"Which page </{INDEX}>"]
        for label, path, anchor in _LINK.findall(section):
            place = (ROOT / "docs" / path).resolve().relative_to(ROOT).with_suffix("")
            page = place.as_posix()
            below = page not in CHILDREN and f"{place.parent}/*" in CHILDREN.values()
            if not anchor and not below and page not in seen:
                seen.add(page)
                entries.append(f"{label} </{page}>")
        trees.append(_toctree(entries, caption=section.partition("\n")[0], hidden=""))
    return "\n".join(trees)


def _toctree(entries: list[str], **options: str) -> str:
    lines = [f":{name}: {value}".rstrip() for name, value in options.items()]
    return "\n".join(["```{toctree}", *lines, "", *entries, "```", ""])


def _without_links_to_folders(name: str, text: str) -> str:
    """Replace links to folders, which only a code host can show, by their text."""

    def plain(link: re.Match[str]) -> str:
        return link[1] if ((ROOT / name).parent / link[2]).is_dir() else link[0]

    return _LINK.sub(plain, text)


def add_what_only_the_site_has(_: Sphinx, name: str, source: list[str]) -> None:
    """Change the text of a page before it is parsed."""
    text = _without_links_to_folders(name, source[0])
    if name == root_doc:
        text += "\n" + navigation()
    elif name in CHILDREN:
        shown = {"maxdepth": "1"} if name == "docs/adr/README" else {"hidden": ""}
        text += "\n" + _toctree([f"/{CHILDREN[name]}"], glob="", **shown)
    elif name == "docs/cli":
        text += "\n" + reference.command_line()
    elif name == "docs/api":
        text += "\n" + reference.python(text)
    source[0] = text


def link_to_pages(
    _app: Sphinx, _what: str, _name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """Link to the pages that a docstring names."""
    lines[:] = [_PAGE.sub(r":doc:`\1 </docs/\1>`", line) for line in lines]


def name_the_union_of_events(
    _app: Sphinx,
    _what: str,
    _name: str,
    _value: object,
    _options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Write Event for the union of all events, of which each listener takes one."""
    return (signature and _EVENTS.sub("Event", signature)), returned


def make_the_first_page(app: Sphinx, failure: Exception | None) -> None:
    """Give the page of the README the name that servers look for."""
    if failure is None and app.builder.format == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_what_only_the_site_has)
    app.connect("autodoc-process-docstring", link_to_pages)
    app.connect("autodoc-process-signature", name_the_union_of_events)
    app.connect("build-finished", make_the_first_page)
