import csv
import io
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.cost.money import Currency
from stormbreak.cost.sheet import Column, Kind, Sheet, csv_safe, percent, volume

COLUMNS = (
    Column("name", "name"),
    Column("money", "{} a month", Kind.MONEY),
    Column("share", "share", Kind.SHARE),
    Column("tokens", "tokens", Kind.VOLUME),
)


def sheet(*rows, currency=None):
    return Sheet(columns=COLUMNS, rows=rows, currency=currency or Currency())


@table_test("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_csv_escapes_text_that_starts_like_a_formula(begin):
    made = sheet((f"{begin}1+1", Decimal(-5), Decimal("-0.1"), 7)).csv()
    _, row = csv.reader(io.StringIO(made))
    escaped = begin.encode("unicode_escape").decode()
    assert row == [f"'{escaped}1+1", "-5", "-0.1", "7"]  # numbers stay numbers


@given(
    st.text(),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12),
)
def test_csv_cells_are_printable_and_keep_their_text(text, number):
    made = sheet((text, number, None, 1)).csv()
    _, row = csv.reader(io.StringIO(made))
    assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert row[0].isprintable()
    if text.isprintable():
        assert row[0].removeprefix("'") == text.removeprefix("'")
    assert abs(Decimal(row[1]) - number) <= Decimal("0.0000005")
    assert row[2] == ""


def test_amounts_are_converted_and_shares_are_not():
    of = sheet(
        ("x", Decimal("0.42"), Decimal("0.866666666"), 50_000_000),
        currency=Currency("VND", Decimal(26_000)),
    )
    assert of.records() == [
        {"name": "x", "money": 10_920, "share": Decimal("0.866667"), "tokens": 50_000_000}
    ]
    shown = [of.shown(column, cell) for column, cell in zip(COLUMNS, of.rows[0], strict=True)]
    assert shown == ["x", "10,920", "86.7 %", "50M"]


def test_an_empty_cell_is_shown_as_its_placeholder():
    assert sheet().shown(COLUMNS[1], None) == "-"
    assert sheet().shown(Column("a", "b", Kind.NUMBER, "never"), None) == "never"


@table_test(
    ("number", "shown"), [("0", "0.0"), ("0.05", "0.1"), ("0.049", "<0.1"), ("1234.55", "1,234.6")]
)
def test_a_small_number_is_not_shown_as_zero(number, shown):
    assert sheet().shown(Column("a", "b", Kind.NUMBER), Decimal(number)) == shown


def test_a_column_with_only_its_usual_value_is_hidden():
    columns = (Column("a", "a"), Column("b", "b", usual="as ever"))
    for cells, places in ((("as ever", ""), [0]), (("as ever", "other"), [0, 1])):
        rows = [("x", cell) for cell in cells]
        assert Sheet(columns=columns, rows=rows).visible_columns() == places


def test_numbers_are_written_without_an_exponent():
    assert csv_safe(Decimal("1E+9")) == "1000000000"


@table_test(
    ("tokens", "shown"),
    [
        (1, "1"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (1234, "1,234"), (2_095_380, "2,095,380"),
        (50_000_000, "50M"), (2_000_000_000, "2B"), (3_210_000, "3.21M"), (10**14, "100,000B"),
    ],
)  # fmt: skip
def test_token_counts_are_abbreviated_only_without_loss(tokens, shown):
    assert volume(Decimal(tokens)) == shown


def test_a_share_has_one_digit_rounded_half_up():
    assert percent(Decimal("0.86666")) == "86.7 %"
    assert percent(Decimal("0.0005")) == "0.1 %"
    assert percent(Decimal("0.00049")) == "<0.1 %"
    assert percent(Decimal("-0.00049")) == ">-0.1 %"
    assert percent(Decimal(0)) == "0.0 %"
    assert percent(Decimal("14.6")) == "1,460.0 %"
