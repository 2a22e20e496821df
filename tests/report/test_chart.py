from math import isnan, nan

from table_test import table_test

from stormbreak.report.chart import POINTS, Line, Panel, clock_for, means, stride


@table_test(
    ("count", "step"),
    [(1, 1), (POINTS, 1), (POINTS + 1, 2), (1457, 20), (5 * POINTS, 5), (86_400, 1000)],
)
def test_the_stride_limits_the_points_of_a_line(count, step):
    assert stride(count) == step
    assert len(means([1.0] * count, step)) <= POINTS


def test_means_ignore_missing_values():
    assert means([1.0, 3.0, nan, 5.0, nan], 2)[:2] == [2.0, 5.0]
    assert isnan(means([nan, nan], 2)[0])


@table_test(
    ("span", "unit"),
    [(30, "seconds"), (599, "seconds"), (600, "minutes"), (14_399, "minutes"), (14_400, "hours")],
)
def test_a_time_axis_uses_a_readable_unit(span, unit):
    assert clock_for(span).unit == unit


def test_the_top_of_a_panel_includes_the_band():
    line = Line(name="a", ys=[1.0, nan], low=[0.0, 0.0], high=[7.0, nan])
    panel = Panel(about="", x_label="", y_label="", xs=[0.0, 1.0], lines=[line])
    assert panel.top == 7.0


@table_test(("clipped", "top"), [(False, 100.0), (True, 6.0)])
def test_a_clipped_panel_ignores_the_height_of_its_backdrop(clipped, top):
    lines = [Line(name="limit", ys=[100.0]), Line(name="in flight", ys=[4.0], stroke=0)]
    panel = Panel(about="", x_label="", y_label="", xs=[0.0], lines=lines, clipped=clipped)
    assert panel.top == top
