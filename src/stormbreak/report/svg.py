"""A panel as a drawing that stands in a page: text is text, colours are the page's, and nothing refers to elsewhere."""

import re
from io import BytesIO
from xml.etree.ElementTree import Element, fromstring, tostring

from markupsafe import Markup
from matplotlib.figure import Figure

from stormbreak.report.drawing import draw, settings
from stormbreak.report.panel import Panel
from stormbreak.report.theme import stand_in, themed

WIDTH, HEIGHT = 440, 232
"""Of a drawing, in its own units. A column of a page is about so wide, a telephone a little less."""

_TEXT = 12.5
_MARGINS = {"left": 46, "right": 10, "top": 30, "bottom": 42}  # in the same units
_INCH = 72
_LONG_NUMBER = re.compile(r"-?\d+\.\d\d+")
_DROPPED = {"metadata", "style"}


def drawing_of(panel: Panel, *, salt: str) -> Markup:
    """Draw `panel`. `salt` must differ between the drawings of a page: names in them are made of it."""
    with settings(salt):
        figure = Figure(figsize=(WIDTH / _INCH, HEIGHT / _INCH), dpi=_INCH)
        figure.patch.set_visible(False)
        axes = figure.add_axes(
            (
                _MARGINS["left"] / WIDTH,
                _MARGINS["bottom"] / HEIGHT,
                1 - (_MARGINS["left"] + _MARGINS["right"]) / WIDTH,
                1 - (_MARGINS["top"] + _MARGINS["bottom"]) / HEIGHT,
            )
        )
        draw(panel, axes, stand_in, _TEXT)
        drawn = BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = fromstring(drawn.getvalue())  # noqa: S314 - what matplotlib has just written
    _clean(root)
    root.attrib = {
        "class": "chart",
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-label": panel.about,
    }
    return Markup(tostring(root, encoding="unicode"))  # noqa: S704 - escaped by whoever serialised it


def _clean(element: Element) -> None:
    """Take out what a page has itself, and the names of namespaces, which HTML does without."""
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    if element.tag == "g":
        attributes.pop("id", None)  # nobody refers to groups, and each drawing numbers them alike
    if "style" in attributes:
        attributes["style"] = _style(attributes["style"])
    if "d" in attributes:
        attributes["d"] = _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.1f}", attributes["d"])
    element.attrib = attributes
    for child in list(element):
        _clean(child)
        if child.tag in _DROPPED or (child.tag == "defs" and not len(child)):
            element.remove(child)


def _style(style: str) -> str:
    kept = [part.strip() for part in style.split(";") if "font-family" not in part]
    return themed("; ".join(part for part in kept if part))


def _local(name: str) -> str:
    return name.rpartition("}")[2]
