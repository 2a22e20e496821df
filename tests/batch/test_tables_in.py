"""Tables as INPUT: reading, requests, and errors."""

import csv
import gzip
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import run
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.batch.export.tables import write_csv
from stormbreak.batch.input.csv_reader import read_csv
from stormbreak.batch.input.row import RowError
from stormbreak.batch.input.spool import find_table
from stormbreak.batch.input.table import Table
from stormbreak.batch.input.table_requests import RequestMaker, Text
from stormbreak.batch.run_options import BatchOptions, TableOptions
from stormbreak.errors import ConfigurationError

ROWS = [{"id": 1, "title": "One", "own": "x"}, {"id": 2, "title": None, "own": "y"}]
PROMPT = TableOptions(prompt="Tell {title}")


def cells(text, delimiter=","):
    data = text if isinstance(text, bytes) else text.encode()
    return [row for _, row in read_csv(io.BytesIO(data), "t.csv", delimiter)]


def requests(path, options):
    return [*find_table(path, options, BatchOptions()).requests()]


def asked(path, options=PROMPT):
    """The prompt of each row, by id."""
    return {
        row["custom_id"]: row["body"]["messages"][-1]["content"] for row in requests(path, options)
    }


# ---------------------------------------------------------------- CSV


@table_test(
    ("text", "expected"),
    [
        ("a,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ("a,b\r\n1,2", [["a", "b"], ["1", "2"]]),
        ("\ufeffa,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ('a\n"x, ""y""\nz"\n', [["a"], ['x, "y"\nz']]),
        ('a,b,c\n,"",x\n', [["a", "b", "c"], [None, "", "x"]]),
        ('a,b,c\n"","",\n', [["a", "b", "c"], ["", "", None]]),
        ('a,b\n"say ""hi"", ok",\n', [["a", "b"], ['say "hi", ok', None]]),
        ('a,b,c\n"1,""2""\n3",,""\n', [["a", "b", "c"], ['1,"2"\n3', None, ""]]),
        ("a,b\n\n1,\n", [["a", "b"], ["1", None]]),
        ('a\n""\n', [["a"], [""]]),
    ],
)
def test_csv_is_read_as_rfc_4180_defines_it(text, expected):
    assert cells(text) == expected


@table_test("delimiter", [";", "\t", "|"])
def test_csv_is_read_with_another_delimiter(delimiter):
    assert cells(f'a{delimiter}b\n"x{delimiter}"{delimiter}""\n', delimiter) == [
        ["a", "b"],
        [f"x{delimiter}", ""],
    ]


def test_a_csv_cell_may_have_megabytes():
    long = "word " * 1_000_000
    assert cells(f'a,b\n1,"{long}"\n')[1] == ["1", long]


def test_reading_csv_restores_the_global_field_size_limit():
    before = csv.field_size_limit()
    rows = read_csv(io.BytesIO(b"a\n1\n2\n"), "t.csv", ",")
    next(rows)
    assert csv.field_size_limit() == before  # also between two rows
    with pytest.raises(ConfigurationError):
        cells('a\n"1\n')
    assert csv.field_size_limit() == before


@table_test(
    ("text", "where", "what"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', "t.csv:3:", "a cell begins with a quote that never ends"),
        ('a,b\n1,"2\n3,"4\n', "t.csv:2:", "a quote ends inside a cell, or never ends"),
        ("a,b\n1,2\r3,4\n", "t.csv:2:", "a carriage return without a line feed"),
        (b"a,b\n1,2\n3,\xe9\n", "t.csv:3:", "not UTF-8 at byte 2 of the line"),
    ],
)
def test_broken_csv_names_the_line(text, where, what):
    with pytest.raises(ConfigurationError) as raised:
        cells(text)
    assert str(raised.value).startswith(f"{where} {what}")


def test_a_row_of_another_length_names_the_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n"1\n1",2\n3\n')
    with pytest.raises(ConfigurationError, match=r"rows.csv:4: has 1 cells, and the header 2"):
        [*Table.find(path).records()]


def test_duplicate_column_names_are_an_error_with_the_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(ConfigurationError, match=r"rows.csv:1: two columns are named 'a'"):
        Table.find(path).columns()


CELLS = st.none() | st.text(st.sampled_from("ab,;\t\"\r\n '=é\0"), max_size=6)


@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=5)
    ),
    delimiter=st.sampled_from(",;\t"),
)
def test_written_csv_is_read_back_unchanged(rows, delimiter):
    columns = [f"c{number}" for number in range(len(rows[0]) if rows else 2)]
    file = io.BytesIO()
    records = (dict(zip(columns, row, strict=True)) for row in rows)
    write_csv(file, records, columns, delimiter, escape_formulas=False)
    file.seek(0)
    [header, *found] = [row for _, row in read_csv(file, "t.csv", delimiter)]
    assert header == columns
    # A row of a single null is an empty line, which is not a row.
    assert found == [row for row in rows if row != [None]]
    file.seek(0)
    text = io.StringIO(file.getvalue().decode(), newline="")
    others = [row for row in csv.reader(text, delimiter=delimiter, strict=True) if row]
    assert others[1:] == [[cell or "" for cell in row] for row in rows if row != [None]]


# ---------------------------------------------------------------- formats


def files_of(tmp_path):
    """The same rows in every format."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    text = "id,title,own\n1,One,x\n2,,y\n"
    (tmp_path / "rows.csv").write_text(text)
    (tmp_path / "rows.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pa.CompressedOutputStream(str(tmp_path / "rows.csv.zst"), "zstd") as file:
        file.write(text.encode())
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    return sorted(tmp_path.iterdir())


def test_every_format_gives_the_same_requests(tmp_path):
    for path in files_of(tmp_path):
        assert asked(path) == {"row-1": "Tell One", "row-2": "Tell "}, path.name
        options = TableOptions(prompt="{id}: {title}", id="id")
        assert asked(path, options) == {"1": "1: One", "2": "2: "}, path.name


def test_a_pattern_reads_files_in_the_order_of_their_names(tmp_path):
    for name, title in (("b", "2"), ("a", "1"), ("c", "3")):
        (tmp_path / f"{name}.csv").write_text(f"title\n{title}\n")
    expected = {"row-1": "Tell 1", "row-2": "Tell 2", "row-3": "Tell 3"}
    assert asked(tmp_path / "*.csv") == expected


def test_files_of_a_pattern_must_have_the_same_columns(tmp_path):
    (tmp_path / "a.csv").write_text("title\n1\n")
    (tmp_path / "b.csv").write_text("name\n1\n")
    with pytest.raises(ConfigurationError, match=r"b.csv: has other columns than .*a.csv"):
        asked(tmp_path / "*.csv")


def test_only_the_named_columns_of_parquet_are_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    read = [*Table.find(path).records(["title"])]
    assert read == [{"title": "One"}, {"title": None}]


@pytest.mark.parametrize("keep", [0.5, 0.99])
@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv.gz", "rows.csv.zst"])
def test_a_truncated_file_is_an_error_of_one_line(tmp_path, name, keep):
    files_of(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ConfigurationError, match=rf"{name}: .*truncated"):
        asked(path)


def test_a_missing_input_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot read the input: no such file"):
        asked(tmp_path / "rows.csv")
    with pytest.raises(ConfigurationError, match="no such file"):
        asked(tmp_path / "*.csv")


def test_uncompressed_requests_are_not_copied(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "hi"}\n')
    assert find_table(path, TableOptions(), BatchOptions()) is None
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    found = requests(tmp_path / "in.jsonl.gz", TableOptions())
    assert found == [{"custom_id": "row-1", "prompt": "hi"}]


# ---------------------------------------------------------------- requests

COLUMNS = ("title", "body", "Product name", "id", "n")


def made(record, **options):
    return RequestMaker(TableOptions(**options), COLUMNS, "t.csv", max_tokens=9)(record, 1)


RECORD = {"title": "T", "body": "B", "Product name": "P", "id": 7, "n": [1, {"a": None}]}


def user(text):
    return {"role": "user", "content": text}


@table_test(
    ("options", "body"),
    [
        ({"prompt": "{title}-{Product name}"}, {"messages": [user("T-P")]}),
        ({"prompt": "{{{id}}} {n}"}, {"messages": [user('{7} [1,{"a":null}]')]}),
        (
            {"prompt": "{title}", "system": "Be {body}"},
            {"messages": [{"role": "system", "content": "Be B"}, user("T")]},
        ),
        ({"prompt": "{title}", "url": "/v1/embeddings"}, {"input": "T"}),
        (
            {"prompt": "{title}", "system": "S", "url": "/v1/responses"},
            {"input": "T", "instructions": "S"},
        ),
        (
            {"prompt": "{title}", "system": "S", "url": "/v1/messages"},
            {"system": "S", "messages": [user("T")], "max_tokens": 9},
        ),
    ],
)
def test_the_body_has_the_format_of_its_endpoint(options, body):
    url = options.get("url", "/v1/chat/completions")
    expected = {"custom_id": "row-1", "method": "POST", "url": url, "body": body}
    assert made(RECORD, **options) == expected


def test_a_column_can_hold_the_whole_body():
    body = {"messages": [user("x")], "temperature": 0}
    assert made({"body": json.dumps(body)}, body="body")["body"] == body
    assert made({"body": body}, body="body")["body"] == body
    with pytest.raises(RowError, match="column 'body' is not a JSON object"):
        made({"body": "[]"}, body="body")


def test_a_template_reads_columns_by_name(tmp_path):
    path = tmp_path / "prompt.j2"
    path.write_text("{% if n %}{{ title|upper }}{% endif %} {{ row['Product name'] }} {{ n }}")
    request = made(RECORD, template=str(path))
    assert request["body"]["messages"] == [user('T P [1,{"a":null}]')]


def test_a_template_runs_in_the_sandbox(tmp_path):
    path = tmp_path / "prompt.j2"
    path.write_text("{{ title.__class__.__mro__ }}")
    with pytest.raises(RowError, match=r"prompt.j2: .*unsafe|SecurityError in the template"):
        made(RECORD, template=str(path))


@table_test(
    ("options", "message"),
    [
        ({"prompt": "all the same"}, "--prompt: names no column, so every row would send the same request"),
        ({"prompt": "{titel}"}, "t.csv: has no column 'titel', which the prompt names; did you mean 'title'?"),
        ({"prompt": "{zzz}"}, "t.csv: has no column 'zzz', which the prompt names; the columns are 'title', "),
        ({"prompt": "{title"}, "--prompt: expected '}' before end of string; write a brace that"),
        ({"prompt": "{title!r}"}, "--prompt: only the name of a column may be in braces"),
        ({"prompt": "{}"}, "--prompt: only the name of a column may be in braces"),
        ({"prompt": "{title}", "id": "key"}, "t.csv: has no column 'key', which --id names"),
        ({"body": "key"}, "t.csv: has no column 'key', which --body names"),
        ({}, "t.csv: its rows are not requests: give --prompt"),
        ({"prompt": "{title}", "body": "body"}, "--prompt and --body: give one of them, not both"),
        ({"system": "x", "body": "body"}, "--body and --system: give one of them, not both"),
        ({"prompt": "{title}", "url": "/v1/images"}, "--url must be one of /v1/chat/completions, "),
        ({"prompt": "{title}", "system": "s", "url": "/v1/embeddings"}, "--system: embeddings"),
        ({"template": "/no/such.j2"}, "/no/such.j2: cannot be read"),
    ],
)  # fmt: skip
def test_invalid_table_options_are_an_error_of_one_line(options, message):
    with pytest.raises(ConfigurationError) as raised:
        made(RECORD, **options)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_broken_template_names_its_line(tmp_path):
    path = tmp_path / "prompt.j2"
    path.write_text("fine\n{% if title %}\n{{ title }")
    with pytest.raises(ConfigurationError, match=r"prompt.j2:\d: "):
        Text.load(path)


def test_json_lines_without_a_needed_column_are_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"title": "a"}\n\n{"name": "b"}\n')
    with pytest.raises(ConfigurationError, match=r"rows.jsonl: row 2: has no 'title'"):
        asked(path)
    path.write_text('{"title": "a"}\n[1]\n')
    with pytest.raises(ConfigurationError, match=r"rows.jsonl:2: is not a JSON object"):
        asked(path)


@table_test("value", [None, "", 1.5, [1], {"a": 1}])
def test_an_invalid_id_is_an_error(value):
    with pytest.raises(RowError, match="its id is"):
        made(RECORD | {"id": value}, prompt="{title}", id="id")


def test_reading_a_table_needs_constant_memory(tmp_path):
    """Reading 30 MB of CSV takes less than 10 MB."""
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        file.write("title,own\n")
        file.writelines(f"t{number},{'x' * 1000}\n" for number in range(30_000))
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from stormbreak.batch.input.spool import find_table\n"
        "from stormbreak.batch.run_options import BatchOptions, TableOptions\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "made = find_table(Path(sys.argv[1]), TableOptions(prompt='{title}'), BatchOptions())\n"
        "rows = sum(1 for _ in made.requests())\nprint(rows, peak() - before)\n"
    )
    done = subprocess.check_output([sys.executable, "-c", code, path], text=True).split()
    assert int(done[0]) == 30_000
    assert int(done[1]) < 10_000  # KiB


def test_the_estimate_of_a_table_equals_that_of_its_requests(tmp_path):
    table, plain = tmp_path / "rows.csv", tmp_path / "in.jsonl"
    table.write_text("title,own\n" + "".join(f"Title {n},{'x' * 99}\n" for n in range(9)))
    lines = [json.dumps({"prompt": f"Tell Title {number}"}) + "\n" for number in range(9)]
    plain.write_text("".join(lines))
    words = ["--provider", "openai", "-m", "gpt-4.1", "--json"]
    estimates = [
        json.loads(run("batch", "estimate", *args, *words).stdout)["models"]
        for args in ((table, "--prompt", "Tell {title}"), (plain,))
    ]
    assert estimates[0] == estimates[1]
    assert estimates[0][0]["rows"] == 9
