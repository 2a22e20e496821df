"""One panel as a drawing for a page, and several in a picture."""

import re
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from math import nan
from xml.etree.ElementTree import fromstring

import matplotlib as mpl
import pytest
from evil import EVIL
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from table_test import table_test

from stormbreak.report.chart import Line, Panel
from stormbreak.report.drawing import drawing_of
from stormbreak.report.page import Card, Chart, Key, keys_of
from stormbreak.report.picture import Picture, png_of
from stormbreak.report.theme import STROKES

PANEL = Panel(
    about="what it shows",
    x_label="seconds since the start",
    y_label="attempts",
    xs=[0.0, 1.0, 2.0, 3.0],
    lines=[
        Line(name="possible", ys=[1.0, 2.0, 2.0, 1.0]),
        Line(name="ours", ys=[1.0, nan, 3.0, 4.0], stroke=0, low=[0.0] * 4, high=[5.0] * 4),
        Line(name="theirs", ys=[nan] * 4, stroke=1),
    ],
    shaded=(1.0, 2.0),
    shaded_as="trigger",
)


def texts(drawing):
    return [each.text for each in fromstring(drawing).iter("text")]


def test_a_drawing_has_its_axes_and_trigger_as_text():
    assert {"seconds since the start", "attempts", "trigger"} <= set(
        texts(drawing_of(PANEL, salt=""))
    )


def test_a_drawing_uses_only_colours_of_the_page():
    drawing = drawing_of(PANEL, salt="")
    assert "var(--line-1)" in drawing
    assert not re.findall(
        r"#[0-9a-f]{3,8}\b(?!\))", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", drawing)
    )
    assert "font-family" not in drawing


def test_drawings_are_deterministic_and_share_no_ids():
    first, again, other = (drawing_of(PANEL, salt=salt) for salt in ("a", "a", "b"))
    names = [set(re.findall(r'\bid="(\w+)"', drawing)) for drawing in (first, other)]
    assert first == again
    assert names[0]
    assert not names[0] & names[1]
    used = set(re.findall(r"url\(#(\w+)\)|href=\"#(\w+)\"", first))
    assert {one or two for one, two in used} <= names[0]


@table_test("name", [EVIL, "$\\frac{1}{", "日本語 ☃ 😀", "a --> b", ""])
def test_any_label_is_drawn_as_text(name):
    hostile = replace(PANEL, about=name, x_label=name, y_label=name, shaded_as=name)
    drawing = drawing_of(hostile, salt="")
    assert not name or texts(drawing).count(name) == 3
    assert fromstring(drawing).get("aria-label") == name


def test_drawing_neither_uses_nor_changes_global_settings(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 17.0)
    before = dict(mpl.rcParams)
    plain = drawing_of(PANEL, salt="")
    assert dict(mpl.rcParams) == before
    monkeypatch.undo()
    assert drawing_of(PANEL, salt="") == plain


@table_test("lines", [(), (Line(name="none", ys=[nan] * 4, stroke=0),)])
def test_an_empty_panel_can_be_drawn(lines):
    assert "seconds since the start" in texts(drawing_of(replace(PANEL, lines=lines), salt=""))


def test_a_single_point_can_be_drawn():
    line = Line(name="one", ys=[1.0], stroke=0)
    drawing_of(replace(PANEL, xs=[2.0], lines=[line], shaded=None), salt="")


def test_a_picture_is_a_deterministic_png():
    cards = [Card(name=EVIL, figure="98 %", about="of all " * 30, stroke=STROKES[0])] * 9
    keys = keys_of(PANEL.lines)
    tiles = [Chart(title=EVIL, panel=PANEL, keys=keys)] * 3
    picture = Picture(
        title=EVIL, verdict="It goes on. " * 30, charts=tiles, keys=keys, cards=cards, note="why"
    )
    drawn = png_of(picture)

    assert drawn == png_of(picture)
    image = Image.open(BytesIO(drawn))
    assert (image.format, image.width) == ("PNG", 1680)
    assert image.height > 1200
    assert len(drawn) < 250_000


@pytest.fixture
def figures(monkeypatch):
    """The figures of a picture, laid out but not rendered."""
    drawn = []

    def figure(*args, **named):
        drawn.append(Figure(*args, **named))
        return drawn[-1]

    def lay_out(sheet):
        sheet._figure.draw_without_rendering()
        return b""

    monkeypatch.setattr("stormbreak.report.picture.Figure", figure)
    monkeypatch.setattr("stormbreak.report.picture._Sheet.png", lay_out)
    return drawn


@pytest.mark.parametrize(
    ("cards", "shared"), [(1, True), (3, False), (4, True), (5, False), (6, True), (6, False)]
)
def test_texts_of_a_picture_do_not_overlap_or_leave_the_page(figures, cards, shared):
    long = "a policy with a name that goes on and on " * 2
    names = [
        "what was possible, and the calls that arrived",
        long,
        "none",
        "naive",
        "fixed",
        "sdk",
        "article",
    ]
    keys = [Key(name=name, stroke=STROKES[0]) for name in names]
    about = "lost, with 82.0 % of the possible answers: as good as 57 s down; ±89 USD over seeds"
    several = [Card(name=long, figure="7,500 USD", about=about, stroke=STROKES[0])] * cards
    tiles = [Chart(title="Outcomes", panel=PANEL, keys=() if shared else keys)] * 2
    png_of(
        Picture(title="t", verdict="v", charts=tiles, keys=keys if shared else (), cards=several)
    )

    figure = figures[0]
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert {"naive", names[0]} <= {text.get_text() for text in texts}
    boxes = [text.get_window_extent() for text in texts]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert not [
        (one.get_text(), other.get_text())
        for (one, box), (other, its) in combinations(zip(texts, boxes, strict=True), 2)
        if box.overlaps(its)
    ]
