"""Tables as OUTPUT: rows with their results, from a run or from its journal."""

import csv
import io
import json
import os
import sys
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sockets
from batches import run, scenario, started, wait_until
from forked_tests import AfterTheFork
from sockets import served_aside

from stormbreak.batch import arun, read_table
from stormbreak.batch import run as run_batch
from stormbreak.batch.export.export import export_output
from stormbreak.batch.export.results import RESULT_COLUMNS, Result, Results
from stormbreak.batch.input.index import Rows
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cost.price_source import no_price
from stormbreak.errors import ConfigurationError
from stormbreak.testing import answer_text

pd = AfterTheFork("pandas")
pl = AfterTheFork("polars")

ANSWERS = ["--model", "storm-1", "--quiet"]
ROWS = [{"id": number, "title": f"Title {number}", "own": f"own-{number}"} for number in range(30)]


@pytest.fixture
def place(stormbreak_provider):
    return stormbreak_provider(scenario()).base_url


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def answer(title):
    prompt = f"Tell {title}"
    return answer_text({"model": "storm-1", "messages": [{"role": "user", "content": prompt}]})


def run_table(place, *args, source="rows.csv", prompt="Tell {title}"):
    return run("batch", "run", source, "--prompt", prompt, "--base-url", place, *ANSWERS, *args)


def test_a_csv_input_gives_a_parquet_output_in_input_order(at, place):
    write_csv(at / "rows.csv", ROWS)
    done = run_table(place, "-o", "out.parquet", "--id", "id")
    assert (done.returncode, done.stderr) == (0, "")
    table = pl.read_parquet("out.parquet")
    assert table.columns == ["id", "title", "own", *RESULT_COLUMNS]
    assert table["id"].to_list() == [str(row["id"]) for row in ROWS]
    assert table["own"].to_list() == [row["own"] for row in ROWS]
    assert table["answer"].to_list() == [answer(row["title"]) for row in ROWS]
    assert table["error"].to_list() == [None] * len(ROWS)
    assert set(table["model"]) == {"storm-1"}
    assert set(table["attempts"]) == {1}
    assert min(table["input_tokens"]) > 0
    assert min(table["output_tokens"]) > 0


def test_a_parquet_output_without_pyarrow_fails_before_any_request(
    at, stormbreak_provider, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    provider = stormbreak_provider(scenario())
    place = {"base_url": provider.base_url, "model": "storm-1"}
    with pytest.raises(ConfigurationError, match=r"pip install 'stormbreak\[tables\]'"):
        run_batch(ROWS, output="out.parquet", prompt="Tell {title}", **place)
    assert provider.stats()["arrivals"] == 0


def test_columns_outside_the_prompt_are_never_sent(at):
    write_csv(at / "rows.csv", ROWS)
    with served_aside(sockets.answer()) as server:
        done = run_table(server.base_url, "-o", "out.parquet", "--id", "id")
    assert done.returncode == 0, done.stderr
    bodies = [request.body for request in server.requests]
    asked = {json.loads(body)["messages"][0]["content"] for body in bodies}
    assert asked == {f"Tell {row['title']}" for row in ROWS}
    assert {frozenset(json.loads(body)) for body in bodies} == {frozenset({"model", "messages"})}
    assert not any(b"own" in body for body in bodies)
    assert not any("own" in f"{request.line}{request.headers}" for request in server.requests)


def test_parquet_columns_keep_their_types(at, place):
    own = pa.table(
        {
            "id": pa.array([1, 2], pa.int32()),
            "title": ["a", None],
            "at": [datetime(2026, 1, 1, 12, tzinfo=UTC), None],
            "day": [date(2026, 1, 1), None],
            "price": [Decimal("1.10"), None],
            "raw": [b"\x00\xff", None],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "deep": [{"a": [1, 2]}, None],
        }
    )
    pq.write_table(own, "rows.parquet")
    assert run_table(place, "-o", "out.parquet", source="rows.parquet").returncode == 0
    table = pq.read_table("out.parquet")
    assert table.select(own.column_names).cast(own.schema) == own
    assert table.schema.names[: len(own.column_names)] == own.column_names
    assert table.schema.field("id").type == pa.int32()
    assert table["answer"].to_pylist() == [answer("a"), answer("")]


def test_json_lines_with_mixed_column_types_are_written_as_parquet(at, place):
    rows = [
        {"title": "a", "mixed": 1, "n": 1, "deep": {"x": 1}},
        {"title": "b", "mixed": "two", "n": 2.5, "more": True, "deep": {"y": [None]}},
    ]
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_table(place, "-o", "out.parquet", source="rows.jsonl").returncode == 0
    table = pl.read_parquet("out.parquet")
    assert table["mixed"].to_list() == ["1", "two"]
    assert table["n"].to_list() == [1.0, 2.5]
    assert table["more"].to_list() == [None, True]
    assert table["deep"].to_list() == [{"x": 1, "y": None}, {"x": None, "y": [None]}]
    assert run("batch", "export", "out.parquet", "out.jsonl").returncode == 0
    lines = [json.loads(line) for line in (at / "out.jsonl").read_text().splitlines()]
    assert [{key: line[key] for key in row} for line, row in zip(lines, rows, strict=True)] == rows


def test_empty_and_null_differ_in_csv(at, place):
    (at / "rows.csv").write_text('title,own\na,\nb,""\n"c ""d"", e\nf",x\n')
    assert run_table(place, "-o", "out.csv").returncode == 0
    lines = (at / "out.csv").read_bytes().split(b"\r\n")
    assert lines[1].startswith(b"a,,")
    assert lines[2].startswith(b'b,"",')
    table = pl.read_csv("out.csv")
    assert table["own"].to_list() == [None, "", "x"]
    assert table["title"].to_list() == ["a", "b", 'c "d", e\nf']
    assert table["error"].to_list() == [None, None, None]
    [header, *rows] = csv.reader(io.StringIO((at / "out.csv").read_text(), newline=""))
    assert header == ["title", "own", *RESULT_COLUMNS]
    assert rows[2][2] == answer('c "d", e\nf')


def test_csv_writes_nan_as_empty_and_infinity_as_a_word(at, place):
    rows = pa.table({"title": [1.5, float("nan"), float("-inf")]})
    pq.write_table(rows, at / "rows.parquet")
    assert run_table(place, "-o", "out.csv", source="rows.parquet").returncode == 0
    table = pl.read_csv("out.csv")
    assert table["title"].to_list() == [1.5, None, float("-inf")]
    assert table["answer"].to_list() == [answer("1.5"), answer(""), answer("-inf")]


def test_escape_formulas_escapes_only_formulas(at, place):
    cells = ["=1+1", "+x", "-5", "-x", "@sum", "\tx", "fine"]
    rows = [{"title": str(number), "own": cell} for number, cell in enumerate(cells)]
    write_csv(at / "rows.csv", rows)
    assert run_table(place, "-o", "out.csv", "--escape-formulas").returncode == 0
    escaped = ["'=1+1", "'+x", "-5", "'-x", "'@sum", "'\tx", "fine"]
    with (at / "out.csv").open(newline="") as file:
        assert [row["own"] for row in csv.DictReader(file)] == escaped
    assert run("batch", "export", "out.csv", "plain.csv").returncode == 0
    with (at / "plain.csv").open(newline="") as file:
        assert [row["own"] for row in csv.DictReader(file)] == cells


def test_flatten_writes_rows_as_json_lines(at, place):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.jsonl", "--flatten").returncode == 0
    lines = [json.loads(line) for line in (at / "out.jsonl").read_text().splitlines()]
    assert [*lines[0]] == ["id", "title", "own", *RESULT_COLUMNS]
    assert [line["answer"] for line in lines] == [answer(row["title"]) for row in ROWS]
    status = run("batch", "status", "out.jsonl")
    assert "done     30 (100.0%)" in status.stdout
    assert run_table(place, "-o", "out.jsonl", "--flatten").returncode == 0  # resumes


def test_json_lines_without_flatten_have_the_batch_format(at, place):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.jsonl").returncode == 0
    line = json.loads((at / "out.jsonl").read_text().splitlines()[0])
    assert {"id", "custom_id", "response", "error"} == {*line}


def test_requests_with_a_table_output_give_ids_and_answers(at, place):
    (at / "in.jsonl").write_text('{"prompt": "Tell a"}\n{"custom_id": "b", "prompt": "Tell b"}\n')
    words = ["batch", "run", "in.jsonl", "-o", "out.csv", "--base-url", place, *ANSWERS]
    assert run(*words).returncode == 0
    with (at / "out.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["custom_id"] for row in rows] == ["row-1", "b"]
    assert [row["answer"] for row in rows] == [answer("a"), answer("b")]


def test_an_export_follows_a_symbolic_link(at, place):
    (at / "in.jsonl").write_text('{"prompt": "Tell a"}\n')
    words = ["batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", place, *ANSWERS]
    assert run(*words).returncode == 0
    (at / "real.csv").write_text("before")
    (at / "latest.csv").symlink_to("real.csv")
    assert run("batch", "export", "out.jsonl", "latest.csv").returncode == 0
    assert (at / "latest.csv").is_symlink()
    assert answer("a") in (at / "real.csv").read_text()


def test_an_export_does_not_follow_a_link_of_another_user(at, place, monkeypatch):
    """Such a link may point to any file of this user."""
    (at / "in.jsonl").write_text('{"prompt": "Tell a"}\n')
    words = ["batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", place, *ANSWERS]
    assert run(*words).returncode == 0
    (at / "precious").write_text("before")
    (at / "table.csv").symlink_to("precious")
    theirs = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: theirs)
    export_output(at / "out.jsonl", at / "table.csv", given=BatchOptions(), price_of=no_price)
    assert (at / "precious").read_text() == "before"
    assert answer("a") in (at / "table.csv").read_text()


def test_the_table_names_errors_and_a_retry_rewrites_it(at, stormbreak_provider):
    write_csv(at / "rows.csv", ROWS)
    bad = stormbreak_provider(scenario({"kind": "content_filter", "share": 0.5})).base_url
    failing = run_table(bad, "-o", "out.csv")
    assert failing.returncode == 1
    with (at / "out.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == len(ROWS)
    assert {bool(row["answer"]) != bool(row["error"]) for row in rows} == {True}
    failed = sum(bool(row["error"]) for row in rows)
    assert {row["error"].partition(":")[0] for row in rows} == {"", "filtered"}
    exported = run("batch", "export", "out.csv", "again.csv")
    assert exported.stdout == f"30 rows in again.csv\n{failed} of them failed\n"
    good = stormbreak_provider(scenario()).base_url
    assert run("batch", "retry", "out.csv", "--base-url", good, "-q").returncode == 0
    with (at / "out.csv").open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == [
            answer(row["title"]) for row in ROWS
        ]


def test_export_writes_a_run_that_is_not_finished(at, stormbreak_provider):
    write_csv(at / "rows.csv", ROWS)
    slow = stormbreak_provider(scenario(service=1.0)).base_url
    words = ["--prompt", "Tell {title}", "--base-url", slow, *ANSWERS, "-o", "out.parquet"]
    with started("batch", "run", "rows.csv", *words, "-c", "4") as process:
        journal = at / "out.parquet.jsonl"
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 4)
        exported = run("batch", "export", "out.parquet", "half.csv")  # while it runs
        process.kill()
    with (at / "half.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    answered = [row for row in rows if row["answer"]]
    assert 4 <= len(answered) < len(rows) == len(ROWS)
    assert exported.stdout.splitlines() == [
        "30 rows in half.csv",
        f"{30 - len(answered)} of them have no answer yet; batch run continues with them",
    ]
    assert all(row["answer"] == answer(row["title"]) for row in answered)
    assert not (at / "out.parquet").exists()
    fast = stormbreak_provider(scenario()).base_url
    done = run_table(fast, "-o", "out.parquet", "--json")  # after kill -9
    assert json.loads(done.stdout)["answered"] <= len(ROWS) - len(answered)
    table = pl.read_parquet("out.parquet")
    assert table["own"].to_list() == [row["own"] for row in ROWS]
    assert table["answer"].to_list() == [answer(row["title"]) for row in ROWS]


# ---------------------------------------------------------------- errors


def test_a_column_named_like_a_result_needs_a_prefix(at, place):
    write_csv(at / "rows.csv", [{"title": "a", "answer": "mine"}])
    refused = run_table(place, "-o", "out.csv")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert "rows.csv: has a column 'answer', as the results have; set --prefix" in refused.stderr
    assert {path.name for path in at.iterdir()} == {"rows.csv"}
    assert run_table(place, "-o", "out.csv", "--prefix", "new_").returncode == 0
    with (at / "out.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["answer"], row["new_answer"]) == ("mine", answer("a"))


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ('id,title\n1,"a\n2,b\n', [], "rows.csv:2: a cell begins with a quote that never ends"),
        ("id,title\n1,a\n1,b\n", ["--id", "id"], "rows.csv: row 2: custom_id '1' is already on row 1"),
        ("id,title\n1,a\n,b\n", ["--id", "id"], "rows.csv: row 2: its id is empty"),
        ("id,title\n", [], "rows.csv: the input holds no rows"),
        ("", [], "rows.csv: holds no header"),
        ("id,name\n1,a\n", [], "rows.csv: has no column 'title', which the prompt names"),
    ],
)  # fmt: skip
def test_a_bad_input_is_one_line_and_leaves_no_file(at, place, text, args, message):
    (at / "rows.csv").write_text(text)
    refused = run_table(place, "-o", "out.parquet", *args)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert message in refused.stderr
    assert {path.name for path in at.iterdir()} <= {"rows.csv", "out.parquet.jsonl.lock"}


def test_a_resume_with_another_prompt_is_rejected(at, place):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.csv").returncode == 0
    before = {path.name: path.read_bytes() for path in at.iterdir()}
    refused = run_table(place, "-o", "out.csv", prompt="Shout {title}")
    assert refused.returncode == 2
    assert "belongs to a run of other rows or another prompt" in refused.stderr
    assert {path.name: path.read_bytes() for path in at.iterdir()} == before


def test_an_existing_file_is_not_replaced(at, place):
    write_csv(at / "rows.csv", ROWS)
    (at / "out.csv").write_text("mine\n")
    for output in ("out.csv", "rows.csv"):
        refused = run_table(place, "-o", output)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert (at / "out.csv").read_text() == "mine\n"


def test_export_rejects_a_changed_input_table(at, place):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.csv").returncode == 0
    write_csv(at / "rows.csv", ROWS[::-1])
    refused = run("batch", "export", "out.csv", "again.csv")
    assert refused.returncode == 2
    assert "rows.csv: has changed since the run" in refused.stderr
    refused = run("batch", "export", "out.csv", "rows.csv")
    assert "is a file of the batch" in refused.stderr
    assert "outputs are not compressed" in run("batch", "export", "out.csv", "out.csv.gz").stderr
    assert not (at / "again.csv").exists()


def test_a_resume_rebuilds_requests_only_when_the_table_changed(at, place, monkeypatch):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.csv").returncode == 0
    spool = at / "out.csv.input.jsonl"
    made = spool.stat().st_ino
    assert run_table(place, "-o", "out.csv").returncode == 0
    assert spool.stat().st_ino == made
    write_csv(at / "rows.csv", [row | {"own": "other"} for row in ROWS])  # gives the same requests
    assert run_table(place, "-o", "out.csv").returncode == 0
    assert spool.stat().st_ino != made
    assert pl.read_csv("out.csv")["own"].unique().to_list() == ["other"]


def test_the_prompt_is_written_only_to_the_requests(at, place):
    write_csv(at / "rows.csv", ROWS)
    assert run_table(place, "-o", "out.csv", "--system", "sotto voce").returncode == 0
    named = [path.name for path in at.iterdir() if b"sotto voce" in path.read_bytes()]
    assert named == ["out.csv.input.jsonl"]


def test_a_moved_batch_can_be_exported_and_retried(at, stormbreak_provider):
    good, bad = (
        stormbreak_provider(scenario(*faults)).base_url
        for faults in ((), ({"kind": "content_filter", "share": 0.5},))
    )
    (at / "old").mkdir()
    run_batch(ROWS, output="old/out.parquet", **options(bad))
    (at / "old").rename(at / "new")
    assert run("batch", "retry", "new/out.parquet", "--base-url", good, "-q").returncode == 0
    assert run("batch", "export", "new/out.parquet", "out.csv").returncode == 0
    with (at / "out.csv").open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == [
            answer(row["title"]) for row in ROWS
        ]


def result_of(tmp_path, line, provider="openai"):
    """The result of a row with this journal line. A token costs 1 dollar at openai and 2 elsewhere."""
    (tmp_path / "in.jsonl").write_text('{"custom_id": "a", "prompt": "x"}\n')
    files = BatchPaths.of(tmp_path / "out.jsonl")
    files.output.write_text(json.dumps({"custom_id": "a", "error": None} | line) + "\n")

    class Price:
        def __init__(self, usd):
            self.usd = usd

        def cost_of(self, usage):
            return Decimal(usage.total * self.usd)

    with (
        Rows.read(tmp_path / "in.jsonl", model="m") as rows,
        Results(
            files, rows, provider=provider, price_of=lambda at, _: Price(1 if at == "openai" else 2)
        ) as results,
    ):
        return results.at(0)


CHAT = {
    "model": "m-1",
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({}, Result("hi", None, "m-1", 3, 4, 7.0, 1)),
        ({"attempts": 3}, Result("hi", None, "m-1", 3, 4, 7.0, 3)),
        ({"answered_by": "other/m-2"}, Result("hi", None, "m-1", 3, 4, 14.0, 1)),
        ({"answered_by": "cache", "attempts": 0}, Result("hi", None, "m-1", 0, 0, 0.0, 0)),
    ],
)
def test_result_columns_show_answer_tokens_cost_and_attempts(tmp_path, line, expected):
    response = {"status_code": 200, "request_id": None, "body": CHAT}
    assert result_of(tmp_path, line | {"response": response}) == expected


@pytest.mark.parametrize(
    ("vectors", "text"), [([[0.5, 1]], "[0.5,1]"), ([[0.5], [1]], "[[0.5],[1]]")]
)
def test_a_table_shows_embeddings_as_json(tmp_path, vectors, text):
    data = [{"index": at, "embedding": numbers} for at, numbers in enumerate(vectors)]
    body = {"model": "e", "data": data, "usage": {"prompt_tokens": 2}}
    response = {"status_code": 200, "request_id": None, "body": body}
    answer = result_of(tmp_path, {"response": response}).answer
    assert json.loads(answer) == json.loads(text)


# ---------------------------------------------------------------- from Python


def options(place):
    return {"base_url": place, "model": "storm-1", "prompt": "Tell {title}"}


def test_run_accepts_and_returns_a_polars_frame(at, place):
    frame = pl.DataFrame(ROWS)
    summary = run_batch(frame, output="out.parquet", id="id", **options(place))
    made = summary.to_polars()
    assert made.select(frame.columns).equals(frame)
    assert made["answer"].to_list() == [answer(row["title"]) for row in ROWS]
    assert made.schema["id"] == pl.Int64


def test_run_accepts_and_returns_a_pandas_frame(at, place):
    frame = pd.DataFrame(ROWS, index=[f"i{row['id']}" for row in ROWS])
    summary = run_batch(frame, output="out.jsonl", **options(place))
    made = summary.to_pandas()
    pd.testing.assert_frame_equal(made[[*frame.columns]], frame)
    assert [*made["answer"]] == [answer(row["title"]) for row in ROWS]
    again = run_batch(frame, output="out.jsonl", **options(place))
    assert again.attempts == 0


@pytest.mark.parametrize("kind", [list, iter, lambda rows: (row for row in rows)])
def test_run_accepts_dicts_with_numpy_values(at, place, kind):
    numpy = pytest.importorskip("numpy")
    rows = [row | {"id": numpy.int64(row["id"]), "x": numpy.float32(0.5)} for row in ROWS]
    run_batch(kind(rows), output="out.parquet", id="id", **options(place))
    table = read_table("out.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in ROWS]
    assert set(table["x"].to_pylist()) == {0.5}
    assert table["answer"].to_pylist() == [answer(row["title"]) for row in ROWS]


async def test_arun_accepts_an_async_iterator(at, place):
    async def rows():
        for row in ROWS:
            yield row

    summary = await arun(rows(), output="out.parquet", **options(place))
    assert summary.to_arrow()["answer"].to_pylist() == [answer(row["title"]) for row in ROWS]


def test_a_run_with_other_rows_does_not_replace_the_spooled_rows(at, place):
    run_batch(pl.DataFrame(ROWS), output="out.parquet", **options(place))
    before = {path.name: path.read_bytes() for path in at.iterdir()}
    with pytest.raises(ConfigurationError, match="belongs to a run of other rows"):
        run_batch(pl.DataFrame(ROWS[1:]), output="out.parquet", **options(place))
    assert {path.name: path.read_bytes() for path in at.iterdir()} == before


def test_a_table_is_read_from_standard_input(at, place):
    write_csv(at / "rows.csv", ROWS)
    words = ["--prompt", "Tell {title}", "--base-url", place, *ANSWERS, "-o", "out.csv"]
    with (
        (at / "rows.csv").open("rb") as source,
        started("batch", "run", "-", *words, stdin=source) as process,
    ):
        out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, ""), out
    (at / "rows.csv").unlink()
    assert run("batch", "export", "out.csv", "again.csv").returncode == 0
    assert (at / "again.csv").read_bytes() == (at / "out.csv").read_bytes()
    with (at / "out.csv").open(newline="") as file:
        assert [row["own"] for row in csv.DictReader(file)] == [row["own"] for row in ROWS]


def test_requests_from_standard_input_resume(at, place):
    lines = "".join(json.dumps({"prompt": f"Tell {row['title']}"}) + "\n" for row in ROWS)
    (at / "in.jsonl").write_text(lines)
    for expected in (str(len(ROWS)), "0"):
        words = ["--base-url", place, *ANSWERS, "-o", "out.jsonl", "--json"]
        with (
            (at / "in.jsonl").open("rb") as source,
            started("batch", "run", "-", *words, stdin=source) as process,
        ):
            out, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (0, "")
        assert f'"answered": {expected},' in out


def test_rows_of_an_unsupported_type_raise(at, place):
    lazy = pl.DataFrame(ROWS).lazy()
    mixed = pd.DataFrame({"title": ["secret words", 1, {"a": 2}]})
    for rows, message in (
        (lazy, "rows must be a path, an iterable of dicts or a data frame, got LazyFrame"),
        (5, "rows must be a path, an iterable of dicts or a data frame, got int"),
        (mixed, "rows: the frame is not a table: Conversion failed for column title"),
    ):
        with pytest.raises(ConfigurationError, match=message) as raised:
            run_batch(rows, output="out.csv", **options(place))
        assert "secret" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="rows: its rows are not requests: give prompt "):
        run_batch(pl.DataFrame(ROWS), output="out.csv", base_url=place)
    assert {path.name for path in at.iterdir()} <= {"out.csv.jsonl.lock"}
