import errno

from table_test import table_test

from stormbreak.escape import ending, path_of, plain, quote, reason


@table_test(
    ("text", "shown"),
    [
        ("document 12", "document 12"),
        ("\x1b[31m\x07", r"\x1b[31m\x07"),
        ("a\nb\u2028c", r"a\nb\u2028c"),
        ("\u202etxt", r"\u202etxt"),
        ("\ud800", r"\ud800"),
        ("日本", "日本"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 63 + "…"),
        (7, "7"),
    ],
)
def test_plain_escapes_control_characters_and_cuts_long_text(text, shown):
    assert plain(text) == shown
    assert quote(text) == f"'{shown}'"


def test_path_of_escapes_but_never_cuts():
    assert path_of("d/" * 500 + "\x1b") == "d/" * 500 + r"\x1b"


def test_reason_names_the_operating_system_error():
    assert reason(OSError(errno.ENOSPC, "No space left on device")) == "disk full"
    assert reason(OSError(errno.EACCES, "Permission denied")) == "permission denied"
    assert reason(OSError("odd")) == "oserror"


@table_test(
    ("text", "shown"),
    [
        ("", ""),
        ("policies/a.toml", "policies/a.toml"),
        ("long/policies/a.toml", "…policies/a.toml"),
        ("policies/a\x1b.toml", "…cies/a\\x1b.toml"),
    ],
)
def test_ending_keeps_the_end_of_a_path(text, shown):
    assert ending(text, 16) == shown
