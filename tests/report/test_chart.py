from math import isnan, nan

from table_test import table_test

from stormbreak.report.chart import POINTS, Line, Panel, clock_for, means, stride


@table_test(
    ("count", "step"),
    [(1, 1), (POINTS, 1), (POINTS + 1, 2), (1457, 20), (5 * POINTS, 5), (86_400, 1000)],
)
def test_no_line_has_more_points_than_can_be_seen(count, step):
    assert stride(count) == step
    assert len(means([1.0] * count, step)) <= POINTS


def test_means_leave_out_what_is_not_known():
    assert means([1.0, 3.0, nan, 5.0, nan], 2)[:2] == [2.0, 5.0]
    assert isnan(means([nan, nan], 2)[0])


@table_test(
    ("span", "unit"),
    [(30, "seconds"), (599, "seconds"), (600, "minutes"), (14_399, "minutes"), (14_400, "hours")],
)
def test_a_span_is_told_in_the_unit_that_is_read_best(span, unit):
    assert clock_for(span).unit == unit


def test_the_highest_number_is_that_of_the_band():
    line = Line(name="a", ys=[1.0, nan], low=[0.0, 0.0], high=[7.0, nan])
    panel = Panel(about="", x_label="", y_label="", xs=[0.0, 1.0], lines=[line])
    assert panel.top == 7.0


@table_test(("clipped", "top"), [(False, 100.0), (True, 6.0)])
def test_a_backdrop_that_is_clipped_does_not_flatten_the_lines(clipped, top):
    lines = [Line(name="limit", ys=[100.0]), Line(name="in flight", ys=[4.0], stroke=0)]
    panel = Panel(about="", x_label="", y_label="", xs=[0.0], lines=lines, clipped=clipped)
    assert panel.top == top
