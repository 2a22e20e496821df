"""Colours have enough contrast, and lines differ also without colour."""

from table_test import table_test

from stormbreak.report.theme import STROKES, TONES, light, placeholder, themed

REQUIRED_KEY = {"ink": 7.0, "muted": 4.5, "trigger": 4.5, "ideal": 3.0} | {
    stroke.role: 3.0 for stroke in STROKES
}


def luminance(colour):
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@table_test("theme", ["light", "dark"])
@table_test("role", REQUIRED_KEY)
@table_test("behind", ["page", "card"])
def test_colours_have_the_required_contrast(theme, role, behind):
    colour, ground = getattr(TONES[role], theme), getattr(TONES[behind], theme)
    assert contrast(colour, ground) >= REQUIRED_KEY[role]


def test_every_stroke_has_its_own_dash_marker_and_colour():
    for part in ("dash", "marker", "outline", "role"):
        assert len({getattr(stroke, part) for stroke in STROKES}) == len(STROKES)
    assert len({light(stroke.role) for stroke in STROKES}) == len(STROKES)


def test_placeholders_become_css_variables():
    style = f"fill: {placeholder('ink')}; stroke: {placeholder('line-1')}"
    assert themed(style) == "fill: var(--ink); stroke: var(--line-1)"
    assert len({placeholder(role) for role in TONES}) == len(TONES)
