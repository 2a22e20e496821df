"""Batches with a schema: every row fits or is reported, every attempt is billed, and a resume needs the same schema."""

import json

import pydantic
import pytest
from batches import chat_row, one_line, read, run, run_args, scenario, write

from stormbreak.batch import run as run_batch
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.run_file import read_run
from stormbreak.errors import ConfigurationError
from stormbreak.testing import serve

HOTEL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "stars": {"type": "integer"}},
    "required": ["name", "stars"],
    "additionalProperties": False,
}
PROSE = {"kind": "prose", "share": 0.4}
ROWS = [chat_row(number, max_tokens=100) for number in range(200)]


class Hotel(pydantic.BaseModel):
    name: str
    stars: int


@pytest.fixture
def schema(tmp_path):
    path = tmp_path / "hotel.json"
    path.write_text(json.dumps(HOTEL))
    return path


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", ROWS)


def go(source, output, provider, *more):
    return run(*run_args(source, output, provider.base_url), "--quiet", *more)


def texts(output):
    return [line["response"]["body"]["choices"][0]["message"]["content"] for line in read(output)]


def test_every_row_fits_the_schema_or_is_reported(source, schema, output, files):
    with serve(scenario(PROSE), seed=1) as provider:
        done = go(source, output, provider, "--schema", schema, "--json")
        summary = json.loads(done.stdout)
        answered, failed = read(output), read(files.failed)
        assert len(answered) + len(failed) == len(ROWS)
        assert 4 <= len(failed) <= 25  # 0.4 ** 3 of 200 is 12.8
        assert all(Hotel.model_validate_json(text) for text in texts(output))
        errors = [line["error"] for line in failed]
        assert {error["verdict"] for error in errors} == {"schema_mismatch"}
        assert {error["attempts"] for error in errors} == {3}
        assert all(line["response"]["status_code"] == 200 for line in failed)  # the rejected answer
        assert done.returncode == 1
        assert summary["reason"]["message"] == "the answer is not JSON"
        assert summary["attempts"] == provider.stats()["arrivals"]
        assert summary["verdicts"]["schema_mismatch"] == provider.stats()["faults"]["prose"]

        again = go(source, output, provider, "--schema", schema, "--json")
        assert json.loads(again.stdout)["attempts"] == 0  # final, like other final verdicts
        assert run("batch", "retry", output, "--quiet").returncode == 0
        assert len(read(output)) == len(ROWS)
        assert all(Hotel.model_validate_json(text) for text in texts(output))


def test_without_repairs_each_row_is_sent_once(source, schema, output, files):
    with serve(scenario(PROSE), seed=1) as provider:
        go(source, output, provider, "--schema", schema, "--repairs", "0")
        assert provider.stats()["arrivals"] == len(ROWS)
        assert 50 < len(read(files.failed)) < 110
    assert read_run(files).flags.repairs == 0


def test_a_model_that_never_fits_stops_the_run(source, schema, output, files):
    with serve(scenario({"kind": "prose"})) as provider:
        done = go(source, output, provider, "--schema", schema)
        assert done.returncode == 1
        assert provider.stats()["arrivals"] == 60  # three attempts at each of 20 rows
    assert "no answer matches the schema" in done.stdout
    assert not read(files.failed)


def test_repairs_count_against_the_spend_limit(source, schema, output, tmp_path):
    prices = tmp_path / "deal.toml"
    with serve(scenario(PROSE, use_max_tokens=True), seed=1) as provider:
        prices.write_text(
            f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
        )
        flags = ["--schema", schema, "--json", "--max-cost", "5", "--prices", prices]
        summary = json.loads(go(source, output, provider, *flags).stdout)
        (billed,) = provider.stats()["billed"].values()
    cost = 3e-6 * billed["input_tokens"] + 15e-6 * billed["output_tokens"]
    assert float(summary["spent"]) == pytest.approx(cost)


def test_a_resume_with_another_schema_is_rejected(source, schema, output):
    with serve(scenario()) as provider:
        assert go(source, output, provider, "--schema", schema).returncode == 0
        done = go(source, output, provider)
        assert done.returncode == 2
        assert one_line(done.stderr).startswith(f"{output}: was begun with --schema ")
        schema.write_text(json.dumps(HOTEL | {"required": []}))
        done = go(source, output, provider, "--schema", schema)
        assert done.returncode == 2
        assert "now with --schema " in one_line(done.stderr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON: "),
        ('{"type":', "is not JSON: "),
        ('{"type": "objekt"}', "schema is not a JSON schema: type: "),
        ("[1]", "schema must be a JSON schema (a dict) or a pydantic model, got list"),
        ('{"$ref": "http://127.0.0.1:1/x"}', "schema is not a JSON schema: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_schema_file_is_one_line(source, schema, output, tmp_path, text, message):
    schema.unlink() if text is None else schema.write_text(text)
    before = sorted(tmp_path.iterdir())
    done = run(*run_args(source, output, "http://127.0.0.1:9/v1"), "--schema", schema)
    assert done.returncode == 2
    assert one_line(done.stderr).startswith(f"{schema}: {message}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("flags", [("--repairs", "1"), ("--repairs", "0"), ("--check-only",)])
def test_repairs_and_check_only_need_a_schema(source, output, flags):
    done = run(*run_args(source, output, "http://127.0.0.1:9/v1"), *flags)
    assert (done.returncode, one_line(done.stderr)) == (2, f"{flags[0]}: give --schema too")


def test_check_only_sends_no_schema_to_the_api(source, schema, output):
    with serve(scenario({"kind": "400", "match": "response_format"})) as provider:
        assert go(source, output, provider, "--schema", schema).returncode == 1
        assert provider.stats()["arrivals"] == 20  # all of them invalid: the run stopped
        done = go(source, output, provider, "--schema", schema, "--check-only", "--repairs", "0")
    assert "no answer matches the schema" in done.stdout  # no request asks for JSON


@pytest.mark.parametrize("form", [HOTEL, Hotel, "file"])
def test_run_accepts_a_schema_as_dict_model_or_file(schema, output, form):
    rows = [{"prompt": f"Rate hotel {number}."} for number in range(30)]
    with serve(scenario({"kind": "prose", "first_attempts": 1, "match": "hotel 7."})) as provider:
        place = {"base_url": provider.base_url, "model": "storm-1"}
        given = schema if form == "file" else form
        summary = run_batch(rows, output=output, schema=given, **place)
        assert summary.successful == 29  # each repair of row 7 is a first attempt
        assert all(Hotel.model_validate_json(each.text) for each in summary.answers())
        with pytest.raises(ConfigurationError, match="was begun with --schema"):
            run_batch(rows, output=output, **place)
        if form != "file":
            done = run("batch", "retry", output, "--base-url", provider.base_url, "-m", "storm-1")
            assert done.returncode == 2
            assert "was begun with a schema" in one_line(done.stderr)


@pytest.mark.parametrize("wrong", [{"schema": 7}, {"repairs": -1}, {"repairs": True}])
def test_wrong_schema_arguments_raise(output, wrong):
    with pytest.raises(ConfigurationError, match=r"must be|give"):
        run_batch([{"prompt": "x"}], output=output, base_url="http://127.0.0.1:9/v1", **wrong)


def test_zero_repairs_is_kept_as_an_option():
    assert BatchOptions(repairs=0).given == {"repairs": 0}
    assert BatchOptions(repairs=0).over(BatchOptions(repairs=2, model="m")).repairs == 0
    assert BatchOptions().over(BatchOptions(repairs=0)).repairs == 0


def test_rows_that_cannot_have_a_schema_fail_alone(tmp_path, schema, output, files):
    body = {"model": "storm-1", "input": ["a"]}
    vectors = {"custom_id": "v", "method": "POST", "url": "/v1/embeddings", "body": body}
    source = write(tmp_path / "in.jsonl", [*ROWS[:2], vectors])
    with serve(scenario()) as provider:
        assert go(source, output, provider, "--schema", schema).returncode == 1
    (failed,) = read(files.failed)
    assert (failed["custom_id"], failed["error"]["verdict"]) == ("v", "invalid")
    assert "a schema needs chat/completions" in failed["error"]["message"]
