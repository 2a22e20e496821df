"""`stormbreak batch estimate` sends nothing and invents no figures."""

import json
from decimal import Decimal

import pytest
from batches import chat_rows, write

from stormbreak.cli.main import main

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

DEAL = """
source = "deal"
[[prices]]
provider = "acme.example"
model = "storm-1"
input = 4
output = 16
batch = { input = 2, output = 8 }
long_prompts = [{ above = 1000, input = 8, output = 32 }]
[[prices]]
provider = "acme.example"
model = "plain"
input = 1
output = 1
"""
URL = ["--base-url", "https://acme.example/v1"]


@pytest.fixture
def deal(tmp_path):
    path = tmp_path / "deal.toml"
    path.write_text(DEAL)
    return ["--prices", str(path)]


@pytest.fixture
def estimate(tmp_path, capsys):
    """Estimate some rows; return the document."""

    def call(rows, *flags):
        source = write(tmp_path / "in.jsonl", rows)
        assert main(["batch", "estimate", str(source), *flags, "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out, parse_float=Decimal)

    return call


def size(row):
    return len(json.dumps(row["body"]))


def test_an_estimate_gives_rows_tokens_and_cost_per_model(estimate, deal):
    rows = chat_rows(10, max_tokens=100)
    (model,) = estimate(rows, *URL, *deal)["models"]
    into = model["input_tokens"]

    assert (model["model"], model["provider"], model["rows"]) == ("storm-1", "acme.example", 10)
    assert into == sum(size(row) // 4 + 1 for row in rows)
    assert model["output_tokens"] == 1000
    assert model["expected"] == (4 * into + 16 * 1000) / Decimal(1_000_000)
    assert model["batch_api"] == model["expected"] / 2
    most = sum(size(row) + 64 for row in rows)
    assert model["max"] == (4 * most + 16 * 1000) / Decimal(1_000_000)


def test_each_model_has_its_row_and_long_prompts_their_price(estimate, deal):
    long = chat_rows(1, model="storm-1", max_tokens=10)
    long[0]["body"]["messages"][0]["content"] = "x" * 8000
    rows = [*long, {**chat_rows(1, model="plain", max_tokens=10)[0], "custom_id": "other"}]
    first, second = estimate(rows, *URL, *deal)["models"]

    assert first["expected"] == (8 * first["input_tokens"] + 32 * 10) / Decimal(1_000_000)
    assert (second["model"], second["batch_api"]) == ("plain", None)


def test_the_maximum_uses_the_highest_price_that_a_prompt_can_reach(estimate, tmp_path):
    path = tmp_path / "falling.toml"
    path.write_text(
        "[[prices]]\nprovider = 'acme.example'\nmodel = 'storm-1'\ninput = 4\noutput = 16\n"
        "long_prompts = [{ above = 100, input = 1, output = 2 }]\n"
    )
    row = chat_rows(1, max_tokens=10)
    row[0]["body"]["messages"][0]["content"] = "x" * 1000
    (model,) = estimate(row, *URL, "--prices", str(path))["models"]

    assert model["expected"] == (model["input_tokens"] + 2 * 10) / Decimal(1_000_000)
    assert model["max"] == (4 * (size(row[0]) + 64) + 16 * 10) / Decimal(1_000_000)


def test_output_tokens_sets_the_answer_length_up_to_the_limit_of_the_row(estimate, deal):
    bounded = estimate(chat_rows(2, max_tokens=50), *URL, *deal, "--output-tokens", "80")
    open_ = estimate(chat_rows(2), *URL, *deal, "--output-tokens", "80")
    given = estimate(chat_rows(2), *URL, *deal, "--max-output-tokens", "300")

    assert bounded["models"][0]["output_tokens"] == 100
    assert open_["models"][0]["output_tokens"] == 160
    assert (open_["models"][0]["max"], open_["models"][0]["unbounded_rows"]) == (None, 2)
    assert (given["models"][0]["output_tokens"], given["models"][0]["unbounded_rows"]) == (600, 0)


def test_an_estimate_gives_the_time_under_each_limit(estimate, deal):
    facts = estimate(
        chat_rows(120, max_tokens=100), *URL, *deal, "--rpm", "60", "--tpm", "1200", "--concurrency", "10", "--latency", "2"
    )  # fmt: skip
    (model,) = facts["models"]
    times = {row["limit"]: row["seconds"] for row in facts["times"]}

    assert times["rpm"] == 120
    assert times["concurrency"] == 24
    tokens = model["input_tokens"] + model["output_tokens"]
    assert float(times["tpm"]) == pytest.approx(tokens / 20, abs=0.001)
    assert next(iter(times)) == "tpm"  # the slowest first


def test_a_model_without_a_price_has_no_cost_and_a_note(estimate):
    facts = estimate(chat_rows(2, max_tokens=5), *URL)
    (model,) = facts["models"]

    assert [model[name] for name in ("expected", "max", "batch_api")] == [None, None, None]
    assert any("storm-1 has no known price at acme.example" in note for note in facts["notes"])


def test_a_price_without_output_is_unknown(estimate, tmp_path):
    path = tmp_path / "half.toml"
    path.write_text("[[prices]]\nprovider = 'acme.example'\nmodel = 'storm-1'\ninput = 4\n")
    facts = estimate(chat_rows(2, max_tokens=100), *URL, "--prices", str(path))
    (model,) = facts["models"]

    assert (model["rows"], model["expected"], model["max"], model["batch_api"]) == (
        2, None, None, None,
    )  # fmt: skip
    why = "storm-1 has no known output price at acme.example, so its cost is unknown."
    assert why in facts["notes"]


def test_a_batch_api_price_without_output_is_unknown_and_noted(estimate, tmp_path):
    path = tmp_path / "half.toml"
    path.write_text(
        "[[prices]]\nprovider = 'acme.example'\nmodel = 'storm-1'\nflat = 4\nbatch = { input = 2 }\n"
    )
    facts = estimate(chat_rows(2, max_tokens=100), *URL, "--prices", str(path))

    assert facts["models"][0]["expected"] > 0
    assert facts["models"][0]["batch_api"] is None
    assert "storm-1 has no known output price in the batch API of acme.example." in facts["notes"]


def test_the_batch_api_of_openai_costs_half_the_list_price(estimate):
    (model,) = estimate(chat_rows(5, model="gpt-4.1", max_tokens=10), "--provider", "openai")[
        "models"
    ]

    assert model["expected"] == 2 * model["batch_api"] > 0


def test_an_estimate_needs_no_key_and_prints_a_table(tmp_path, deal, capsys):
    source = write(tmp_path / "in.jsonl", chat_rows(3))
    assert main(["batch", "estimate", str(source), *URL, *deal]) == 0
    out, _ = capsys.readouterr()

    assert "3 rows set no output limit" in out
    assert "USD expected" in out
    assert "Prices by deal" in out


def test_a_report_may_not_replace_its_input(tmp_path, capsys):
    source = write(tmp_path / "in.html", chat_rows(1))
    before = source.read_bytes()
    assert main(["batch", "estimate", str(source), *URL, "--report", str(source)]) == 2
    assert "is an input of this command" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_an_estimate_accepts_an_unencrypted_address(estimate):
    (model,) = estimate(chat_rows(1), "--base-url", "http://far.example/v1")["models"]
    assert model["provider"] == "far.example"


def test_a_bad_flag_is_an_error_of_one_line(tmp_path, capsys):
    for flags, message in (
        (
            ["--rpm", "0"],
            "--rpm': must be a number from 0.001 to 1,000,000,000,000, got '0'",
        ),
        (["--rpm", "nan"], "must be a number from"),
        (["--rpm", "1e-300"], "must be a number from"),
        (["--tpm", "1e13"], "--tpm': must be a number from"),
        (["--concurrency", "0"], "--concurrency"),
        (["--concurrency", "1000001"], "--concurrency"),
        (["--max-output-tokens", "10000001"], "--max-output-tokens"),
        (["--latency", "1e308"], "--latency': must be a number from 0.001 to 86,400"),
        (["--output-tokens", "-1"], "--output-tokens"),
        (["--latency", "soon"], "must be a number from 0.001 to 86,400"),
        (["--prices", "nowhere.toml"], "nowhere.toml"),
        (["--currency", "XXX", "--rate", "2"], "currency"),
        (["--json", "--csv"], "one of them"),
    ):
        source = write(tmp_path / "in.jsonl", chat_rows(3))
        assert main(["batch", "estimate", str(source), *URL, *flags]) == 2
        out, err = capsys.readouterr()

        assert (out, err.count("\n")) == ("", 1)
        assert message in err


def test_a_broken_row_is_named_with_its_line(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": 3}\n')
    assert main(["batch", "estimate", str(source), *URL, "--model", "m"]) == 2
    assert "in.jsonl:1:" in capsys.readouterr()[1]
