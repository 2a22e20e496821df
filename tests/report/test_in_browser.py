"""Reports in a real browser: no external requests, no scripts, no overflow, and readable text."""

import pytest
from evil import EVIL

SCREENS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]
KINDS = {
    "storm_report": 5,
    "batch_report": 5,
    "cost_report": 1,
    "survey_report": 0,
}  # and the minimum number of their charts
# The number of texts, and those with too little contrast to their background or too small in a chart.
TEXTS = """
() => {
  const PLAIN = 4.5, LARGE = 3.0;  // contrast that text needs (WCAG AA)
  const SMALLEST = 9.0;  // pixels of a letter in a chart
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = rgb(colour).slice(0, 3).map((part) => {
      part /= 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (colour !== "transparent" && rgb(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  let count = 0;
  const pale = [], small = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const parent = walker.currentNode.parentElement;
    if (!text || parent.tagName === "STYLE") continue;
    const style = getComputedStyle(parent);
    const drawn = parent.tagName.toLowerCase() === "text";
    const scale = drawn ? parent.getScreenCTM().d : 1;
    const tones = [light(drawn ? style.fill : style.color), light(behind(parent))];
    const size = parseFloat(style.fontSize) * Math.abs(scale);
    const contrast = (Math.max(...tones) + 0.05) / (Math.min(...tones) + 0.05);
    count += 1;
    if (!(contrast >= (size >= 24 ? LARGE : PLAIN))) pale.push({text, size, contrast});
    if (drawn && !(size >= SMALLEST)) small.push({text, size});
  }
  return {count, pale, small};
}
"""


@pytest.fixture(params=KINDS)
def report(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("width", "theme"), SCREENS)
def test_a_page_makes_no_requests_fits_the_screen_and_is_readable(browser, report, width, theme):
    seen = browser.visit(
        report,
        width,
        theme,
        texts=TEXTS,
        wide="document.documentElement.scrollWidth",
        page="getComputedStyle(document.body).backgroundColor",
    )

    assert [report.as_uri()] == seen.requests
    assert seen.console == []
    assert seen.found["wide"] <= width
    assert seen.found["page"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 25)"}[theme]
    texts = seen.found["texts"]
    assert texts["count"] > 100
    assert (texts["pale"], texts["small"]) == ([], [])


def test_hostile_names_are_shown_as_text(browser, report):
    seen = browser.visit(
        report,
        1280,
        "light",
        elements="[...new Set([...document.querySelectorAll('*')].map((each) => each.localName))]",
        text="document.body.textContent",
    )

    assert {"script", "img", "b", "iframe", "object"}.isdisjoint(seen.found["elements"])
    assert EVIL.removesuffix("\u202e") in seen.found["text"]
    assert "\\u202e" in seen.found["text"]
    assert "\u202e" not in seen.found["text"]
    assert seen.console == []


@pytest.mark.parametrize(("kind", "least"), KINDS.items())
def test_every_chart_has_a_name_and_its_axes(browser, request, kind, least):
    charts = """
    [...document.querySelectorAll("svg.chart")].map((chart) => ({
      name: chart.getAttribute("aria-label"),
      texts: [...chart.querySelectorAll("text")].map((text) => text.textContent),
    }))
    """
    names = "[...document.querySelectorAll('[id]')].map((each) => each.id)"
    report = request.getfixturevalue(kind)
    seen = browser.visit(report, 1280, "light", charts=charts, names=names)

    assert len(seen.found["charts"]) >= least
    for chart in seen.found["charts"]:
        assert chart["name"]
        assert any(" since " in text for text in chart["texts"])
    assert len(seen.found["names"]) == len(set(seen.found["names"]))


def test_the_description_of_a_hostile_scenario_is_shown_as_text(browser, storm_report):
    text = "document.querySelector('header').innerText"
    text = browser.visit(storm_report, 390, "light", text=text).found["text"]
    assert "evil <b>storm" in text
    assert '</style></svg><script>boom()</script>&amp; " $x^2$ ]]>' in text


def test_failed_rows_are_listed(browser, batch_report):
    text = "document.body.textContent"
    text = browser.visit(batch_report, 1280, "light", text=text).found["text"]
    assert "Rows that failed" in text
    assert "<script>boom()</script>mmm" in text
