"""External names in a report."""

from table_test import table_test

from stormbreak.escape import NAME, escape_name, shown

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


@table_test("show", [shown, escape_name])
def test_a_name_is_one_short_line_without_a_key(show):
    assert show("a\n\u202eb") == "a\\n\\u202eb"
    assert len(show("x" * 1000)) == NAME
    for text in (KEY, f"policies/{KEY}.toml", f"{'long ' * 100}{KEY}"):
        assert "abcdefgh" not in show(text)
        assert "0123456789" not in show(text)


def test_a_long_name_keeps_its_end_and_a_long_text_its_start():
    assert escape_name("a" + "x" * 100 + "b").endswith("xb")
    assert shown("a" + "x" * 100 + "b").startswith("ax")
