import json
import os
import tracemalloc
from pathlib import Path

import pytest

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.row import parse_row
from stormbreak.errors import ConfigurationError


def line(custom_id=None, **more):
    given = {} if custom_id is None else {"custom_id": custom_id}
    return json.dumps({**given, "prompt": "CANARY-PROMPT", **more}).encode()


@pytest.fixture
def read(tmp_path):
    opened = []

    def read(content, model="m"):
        path = tmp_path / "in.jsonl"
        path.write_bytes(content)
        opened.append(Rows.read(path, model=model))
        return opened[-1]

    yield read
    for rows in opened:
        rows.close()


def refused(read, content, **options):
    with pytest.raises(ConfigurationError) as raised:
        read(content, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert "CANARY-PROMPT" not in message
    return message


def test_row_at_reads_a_row_by_its_index(read):
    rows = read(b"\n".join(line(f"id {n}", n=n) for n in range(1000)))
    assert len(rows) == 1000
    for index in (999, 0, 500):
        row = rows.row_at(index)
        assert (row.index, row.custom_id) == (index, f"id {index}")
        assert json.loads(row.body)["n"] == index
        assert rows.find(row.custom_id) == index
    assert rows.find("id 1000") is None


def test_rows_accept_bom_crlf_blank_lines_and_no_last_newline(read):
    rows = read(b"\xef\xbb\xbf" + line() + b"\r\n\r\n  \n" + line() + b"\n\n" + line("c"))
    assert [rows.row_at(n).custom_id for n in range(len(rows))] == ["row-1", "row-4", "c"]
    assert [rows.find(name) for name in ("row-1", "row-4", "c")] == [0, 1, 2]


def test_rows_accept_blank_lines_after_the_bom_and_at_the_end(read):
    rows = read(b"\xef\xbb\xbf\n" + line("a") + b"\n\n\n")
    assert [rows.row_at(n).custom_id for n in range(len(rows))] == ["a"]


def test_the_fingerprint_covers_every_byte(read):
    first = read(line("a") + b"\n").fingerprint
    assert read(line("a") + b"\n").fingerprint == first
    assert read(line("a") + b"\n\n").fingerprint != first
    assert read(line("a", model="other") + b"\n").fingerprint != first


def test_the_first_error_names_file_and_line(read, tmp_path):
    message = refused(read, line("a") + b"\n\n" + b'{"prompt": CANARY-PROMPT}\n')
    assert message == f"{tmp_path}/in.jsonl:3: broken JSON at byte 11"


def test_the_error_lists_further_broken_lines(read, tmp_path):
    bad = [b"{", line("a"), b"[]", b"", b'{"prompt": 5}']
    message = refused(read, b"\n".join(bad))
    assert (
        message
        == f"{tmp_path}/in.jsonl:1: broken JSON: ends early, at byte 1; also wrong: lines 3, 5"
    )
    assert refused(read, b"\n".join(bad[:3])).endswith("; also wrong: line 3")


def test_the_error_lists_at_most_ten_further_lines(read):
    message = refused(read, b"{\n" * 1000)
    assert message.endswith("; also wrong: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and others")


def test_the_error_for_an_input_that_is_not_json_explains_the_format(read, tmp_path):
    message = refused(read, b"prompt,max_tokens\n")
    assert message == f"{tmp_path}/in.jsonl:1: is not a JSON object, of which each line holds one"


def test_the_error_for_a_duplicate_id_names_both_lines(read, tmp_path):
    message = refused(read, line("a") + b"\n\n" + line("b") + b"\n" + line("a"))
    assert message == f"{tmp_path}/in.jsonl:4: custom_id 'a' is already on line 1"


def test_duplicate_ids_on_neighbouring_lines_are_an_error(read):
    assert "is already on line 1" in refused(read, line("a") + b"\n" + line("a"))


def test_an_id_may_not_equal_the_default_id_of_another_line(read):
    assert "'row-2' is already on line 1" in refused(read, line("row-2") + b"\n" + line())


@pytest.mark.parametrize(
    "name", ["\x1b[31mred\x1b[0m", "a\nb\r\tc", "[bold]x[/bold]", "\u202etxt", "x" * 500]
)
def test_ids_with_control_characters_work_and_are_escaped_in_errors(read, name):
    rows = read(line(name))
    assert rows.row_at(rows.find(name)).custom_id == name
    message = refused(read, line(name) + b"\n" + line(name))
    assert message.isprintable()
    assert len(message.split("custom_id ")[1]) < 100


def test_the_error_for_a_huge_id_is_short(read):
    message = refused(read, line("\x07" * 2**20))
    assert "has 1,048,576 characters, more than 512" in message
    assert len(message.split("custom_id ")[1]) < 120


def test_ids_with_equal_hashes_are_not_duplicates(read, monkeypatch):
    monkeypatch.setattr(
        "stormbreak.batch.input.index.IdTable.__init__.__kwdefaults__", {"hashed": len}
    )
    rows = read(b"\n".join(line(f"{n:03}") for n in range(50)))
    assert [rows.find(f"{n:03}") for n in range(50)] == list(range(50))
    assert rows.find("999") is None
    assert "'007' is already on line 8" in refused(
        read, b"\n".join(line(f"{n:03}") for n in [*range(50), 7])
    )


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"])
def test_an_input_without_rows_is_an_error(read, content):
    assert "the input holds no rows" in refused(read, content)


def test_invalid_utf8_names_its_line(read):
    assert "in.jsonl:2: invalid UTF-8 at byte 14" in refused(
        read, line("a") + b'\n{"prompt": "xy\xff"}'
    )
    assert "in.jsonl:1: invalid UTF-8" in refused(read, line("a").decode().encode("utf-16"))


def test_a_row_without_a_model_is_an_error_with_its_line(read):
    assert "in.jsonl:2: has no model" in refused(
        read, line("a", model="m") + b"\n" + line("b"), model=None
    )


def test_a_line_longer_than_the_limit_is_an_error(read, monkeypatch):
    monkeypatch.setattr("stormbreak.batch.input.index.LINE_LIMIT", 1000)
    assert "in.jsonl:1: longer than 1,000 bytes" in refused(read, b" " * 5000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot read the input: no such file or directory"),
        (lambda path: path.mkdir(), "cannot read the input: not a regular file"),
        (os.mkfifo, "cannot read the input: not a regular file"),
    ],
)
def test_an_input_that_is_not_a_regular_file_is_an_error(tmp_path, make, message):
    path = tmp_path / "in\x1b[2J.jsonl"
    make(path)
    with pytest.raises(ConfigurationError) as raised:
        Rows.read(path)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_input_is_an_error(read, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(line())
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot read the input: permission denied"):
        Rows.read(path)


def test_standard_input_is_rejected():
    with pytest.raises(ConfigurationError, match=r"must be a file, not - \(stdin\)"):
        Rows.read(Path("-"))


def test_row_at_raises_when_the_input_changed(read, tmp_path):
    rows = read(line("first") + b"\n" + line("other") + b"\n")
    (tmp_path / "in.jsonl").write_bytes(line("other") + b"\n" + line("first") + b"\n")
    with pytest.raises(ConfigurationError, match=r"in\.jsonl:1: was changed during the run"):
        rows.row_at(0)
    (tmp_path / "in.jsonl").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"in\.jsonl:2: was changed during the run"):
        rows.row_at(1)


def test_rows_leave_no_file_descriptor_open(read):
    before = len(list(Path("/dev/fd").iterdir()))
    refused(read, b"{")
    with read(line("a")) as rows:
        assert len(rows) == 1
    rows.close()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_rows_need_at_most_40_bytes_of_memory_each(tmp_path):
    path = tmp_path / "in.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"custom_id":"document-{n}","prompt":"x"}}\n' for n in range(40_000))
    tracemalloc.start()
    with Rows.read(path, model="m") as rows:
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(rows) == 40_000
        assert rows.nbytes / len(rows) <= 40
        assert held / len(rows) <= 40
        assert peak / len(rows) <= 65
        assert rows.row_at(39_999).custom_id == "document-39999"


def test_on_read_reports_the_number_of_rows_read(make_rows):
    rows, seen = make_rows(*map(str, range(10_000))), []
    with Rows.read(rows.path, model="m", on_read=seen.append):
        assert seen == [4096, 8192]


@pytest.fixture
def parsed(monkeypatch):
    """Count the rows that are checked."""
    numbers = []

    def counted(line, *, index, number, model, defaults):
        numbers.append(number)
        return parse_row(line, index=index, number=number, model=model, defaults=defaults)

    monkeypatch.setattr("stormbreak.batch.input.index.parse_row", counted)
    return numbers


def test_row_at_raises_when_a_row_was_edited_in_place(read, tmp_path):
    rows = read(line("a", n=1) + b"\n" + line("b", n=1) + b"\n")
    (tmp_path / "in.jsonl").write_bytes(line("a", n=1) + b"\n" + line("b", n=2) + b"\n")
    assert json.loads(rows.row_at(0).body)["n"] == 1
    with pytest.raises(ConfigurationError, match=r"in\.jsonl:2: was changed during the run"):
        rows.row_at(1)


ODD_FORMS = (
    b"\xef\xbb\xbf" + line() + b"\r\n\r\n  \n" + line("\u00e9") + b"\n" + line("c") + b"\n" + line()
)


def test_an_input_with_a_known_fingerprint_is_only_indexed(read, tmp_path, parsed):
    first = read(ODD_FORMS)
    known = first.fingerprint
    parsed.clear()
    with Rows.read(tmp_path / "in.jsonl", model="m", checked=known) as rows:
        assert parsed == []
        assert rows.fingerprint == known
        ids = ["row-1", "\u00e9", "c", "row-6"]
        assert [rows.find(custom_id) for custom_id in ids] == [0, 1, 2, 3]
        assert list(rows) == list(first)


def test_a_repeated_custom_id_key_means_the_same_when_only_indexed(read, tmp_path):
    first = read(b'{"custom_id":"a","prompt":"x","custom_id":"b"}\n')
    with Rows.read(tmp_path / "in.jsonl", model="m", checked=first.fingerprint) as rows:
        assert (first.find("b"), rows.find("b")) == (0, 0)
        assert (first.find("a"), rows.find("a")) == (None, None)


@pytest.mark.parametrize("other", [line("b"), line("a") + b"\n" + line("a"), b"{", b"\xff", b""])
def test_an_input_with_another_fingerprint_is_checked_in_full(read, tmp_path, other):
    known = read(line("a")).fingerprint
    path = tmp_path / "in.jsonl"
    path.write_bytes(other)
    if other == line("b"):
        with Rows.read(path, model="m", checked=known) as rows:
            assert (len(rows), rows.find("b"), rows.find("a")) == (1, 0, None)
            assert rows.fingerprint != known
        return
    with pytest.raises(ConfigurationError) as quick:
        Rows.read(path, model="m", checked=known)
    with pytest.raises(ConfigurationError) as full:
        Rows.read(path, model="m")
    assert str(quick.value) == str(full.value)


def test_a_row_that_fails_only_when_sent_names_the_problem(read, tmp_path):
    known = read(line("a")).fingerprint
    with (
        Rows.read(tmp_path / "in.jsonl", model=None, checked=known) as rows,
        pytest.raises(ConfigurationError, match=r"in\.jsonl:1: has no model"),
    ):
        rows.row_at(0)
