"""A batch that may cost so much and no more."""

import json
import re
from decimal import Decimal

import pytest
from batches import chat_row, chat_rows, read, scenario, write
from metering import prices, usage

from stormbreak.batch.run_options import UNFINISHED_ROWS, failed_rows
from stormbreak.batch.running.runner import End
from stormbreak.batch.store.run_file import read_run
from stormbreak.cli.main import main
from stormbreak.core.presets import OFF
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.types import CallResult, Outcome, Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

FILLS = scenario(
    {"kind": "cut_body", "share": 0.1},
    {"kind": "500", "share": 0.1},
    service=0.01,
    slots=50,
    use_max_tokens=True,
)
ROWS = chat_rows(100, max_tokens=1000)  # each may cost 0.0156 dollars or so, and does
SMALL = 1.1


def price_of(provider, model):
    return prices(provider, model, into="3", out="15")


def billed(provider):
    cost = price_of("", "").cost_of
    return sum(
        cost(usage(each["input_tokens"], each["output_tokens"]))
        for each in provider.stats()["billed"].values()
    )


@pytest.fixture
def run(run_rows):
    def go(provider, rows=ROWS, **options):
        return run_rows(rows, provider, **{"price_of": price_of, "max_cost": SMALL, **options})

    return go


def test_it_stops_before_the_limit_is_passed_and_more_of_it_goes_on(
    run, stormbreak_provider, files
):
    provider = stormbreak_provider(FILLS)
    first = run(provider)

    assert first.end == End.SPENT.value
    assert first.successful + first.left == 100
    assert first.failed == 0
    assert 20 < first.successful < 72
    assert billed(provider) <= first.spent <= Decimal(str(SMALL))
    assert first.spent > Decimal(str(SMALL)) - Decimal("0.1")

    again = run(provider)
    assert (again.end, again.answered) == (End.SPENT.value, 0)
    assert billed(provider) <= Decimal(str(SMALL))

    more = run(provider, max_cost=10.0)
    assert (more.end, more.successful) == (End.FINISHED.value, 100)
    assert billed(provider) <= more.spent
    assert read_run(files).account.killed == 0


@pytest.mark.parametrize(("of_tenant", "failed"), [(True, 1), (False, 0)])
def test_a_tenant_without_money_for_a_retry_ends_a_row_and_not_the_run(
    run, stormbreak_provider, monkeypatch, of_tenant, failed
):
    """Found: the run stopped early, as if it had spent its own."""
    ask = AsyncClient.ask

    async def answered(client, endpoint, body, **options):
        if b"document 3" not in body:
            return await ask(client, endpoint, body, **options)
        lost = Outcome(Verdict.TIMEOUT, maybe_processed=True)
        attempts = options["attempts"]
        return CallResult(lost, attempts=attempts, stopped="spend", of_tenant=of_tenant)

    monkeypatch.setattr(AsyncClient, "ask", answered)
    summary = run(stormbreak_provider(scenario()), chat_rows(5, max_tokens=1000))

    assert summary.end == (End.FINISHED if of_tenant else End.SPENT).value
    assert summary.failed == failed


def test_a_wide_limit_holds_nobody(run, stormbreak_provider):
    summary = run(stormbreak_provider(FILLS), max_cost=100.0)

    assert (summary.end, summary.successful) == (End.FINISHED.value, 100)
    assert summary.max_cost == 100


def test_a_batch_of_many_models_goes_on(run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.001))
    rows = [chat_row(number, max_tokens=10, model=f"m-{number}") for number in range(120)]

    def known(provider, model):
        return price_of(provider, model) if model.startswith("m-") else None

    assert run(provider, rows=rows, price_of=known).successful == 120

    assert run(provider, rows=rows, price_of=known).end == End.FINISHED.value


def test_without_a_limit_nothing_is_said_of_it(run, stormbreak_provider):
    summary = run(stormbreak_provider(FILLS), max_cost=None, rows=ROWS[:3])

    assert (summary.max_cost, summary.spent) == (None, None)


def test_what_was_under_way_when_a_run_was_killed_counts(run, stormbreak_provider, files):
    provider = stormbreak_provider(FILLS)
    run(provider)
    file = json.loads(files.run.read_bytes())
    account = file["account"] | {"at_work": True}
    lost = {"attempts": 10, "input_tokens": 2_000, "output_tokens": 100_000}
    before = account["spent"][0]["wasted_open"]
    before |= {name: before[name] + more for name, more in lost.items()}
    files.run.write_text(json.dumps(file | {"account": account}))
    summary = run(provider, max_cost=3.0)

    assert read_run(files).account.killed == 1
    assert billed(provider) + Decimal("1.5") <= summary.spent <= Decimal(3)


def test_rows_without_a_bound_get_one(run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.01, use_max_tokens=True))
    summary = run(provider, rows=chat_rows(20), max_output_tokens=100)

    assert summary.successful == 20
    assert summary.output_tokens == 2000


def test_a_first_row_without_a_bound_is_told_before_anything_is_sent(run, stormbreak_provider):
    provider = stormbreak_provider(FILLS)
    with pytest.raises(ConfigurationError, match=r"row 'row-0': nothing .* --max-output-tokens"):
        run(provider, rows=chat_rows(20))

    assert provider.stats()["arrivals"] == 0


def test_a_first_row_whose_most_cannot_be_told_says_what_is_to_blame(run, stormbreak_provider):
    with pytest.raises(ConfigurationError, match=r"its service_tier may cost more .* known$"):
        run(stormbreak_provider(FILLS), rows=chat_rows(1, max_tokens=10, service_tier="priority"))


ILL = [{"role": "user", "content": "ill"}]
OPEN_IN_FRONT = [chat_row(0), *chat_rows(3, max_tokens=10, messages=ILL)[1:]]
OPEN_BEHIND = [chat_row(0, max_tokens=10), *chat_rows(3, messages=ILL)[1:]]


@pytest.mark.parametrize("rows", [OPEN_IN_FRONT, OPEN_BEHIND])
@pytest.mark.parametrize("choice", [UNFINISHED_ROWS, failed_rows()])
def test_of_a_batch_that_goes_on_the_first_row_that_is_left_is_looked_at(
    run, stormbreak_provider, tmp_path, rows, choice
):
    kind = "400" if choice is not UNFINISHED_ROWS else "500"
    ill = stormbreak_provider(scenario({"kind": kind, "match": "ill"}))
    assert run(ill, rows=rows, max_cost=None, policy=OFF).failed == 2  # each is sent once
    before = read(tmp_path / "out.failed.jsonl")
    well = stormbreak_provider(scenario(use_max_tokens=True))
    if rows is OPEN_IN_FRONT:
        assert run(well, choice=choice).complete
        return
    with pytest.raises(ConfigurationError, match=r"row 'row-1': nothing .* --max-output-tokens"):
        run(well, choice=choice)
    assert well.stats()["arrivals"] == 0
    assert read(tmp_path / "out.failed.jsonl") == before


def test_a_later_row_without_a_bound_fails_and_says_why(run, stormbreak_provider, tmp_path):
    rows = [*chat_rows(3, max_tokens=10), {**chat_rows(1)[0], "custom_id": "open"}]
    summary = run(stormbreak_provider(scenario(service=0.01)), rows=rows)
    (failure,) = read(tmp_path / "out.failed.jsonl")

    assert (summary.successful, summary.failed) == (3, 1)
    assert failure["custom_id"] == "open"
    assert "nothing in the request bounds what it costs" in failure["error"]["message"]


def test_a_model_without_a_price_is_told_before_anything_is_sent(run, stormbreak_provider):
    with pytest.raises(ConfigurationError, match="no price is known of storm-1 at 127"):
        run(stormbreak_provider(FILLS), price_of=lambda *_: None)


def test_a_price_file_on_the_command_line(stormbreak_provider, tmp_path, capsys):
    provider = stormbreak_provider(FILLS)
    file = tmp_path / "deal.toml"
    file.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    where = ["--output", str(output), "--base-url", provider.base_url, "--quiet"]
    limit = ["--max-cost", "0.5", "--prices", str(file)]
    code = main(["batch", "run", str(source), *where, *limit])
    out, _ = capsys.readouterr()

    assert code == 1
    assert re.search(
        r"cost +0\.[0-9]+( to 0\.[0-9]+)? USD; [89][0-9] % of the 0\.50 USD that it may cost", out
    )
    assert "too small for the next row; run again with a higher --max-cost" in out

    assert main(["batch", "run", str(source), *where, *limit, "--json"]) == 1
    said = json.loads(capsys.readouterr()[0])
    assert (said["end"], said["max_cost"], said["answered"]) == ("spent", 0.5, 0)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "5 USD"])
def test_a_limit_that_is_none(value, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS[:1])
    flags = ["--output", str(tmp_path / "o.jsonl"), "--base-url", "http://127.0.0.1:9/v1"]
    assert main(["batch", "run", str(source), *flags, "--max-cost", value]) == 2
    assert "--max-cost" in capsys.readouterr()[1]
