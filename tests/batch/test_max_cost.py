"""A batch with a spend limit."""

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
ROWS = chat_rows(100, max_tokens=1000)  # each costs about 0.0156 dollars, which is also its bound
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


def test_a_run_stops_before_its_limit_and_resumes_with_a_higher_one(
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
def test_an_exhausted_tenant_budget_ends_a_row_and_not_the_run(
    run, stormbreak_provider, monkeypatch, of_tenant, failed
):
    """The run used to stop early, as if its own budget were exhausted."""
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


def test_a_high_limit_stops_no_row(run, stormbreak_provider):
    summary = run(stormbreak_provider(FILLS), max_cost=100.0)

    assert (summary.end, summary.successful) == (End.FINISHED.value, 100)
    assert summary.max_cost == 100


def test_a_spend_limit_works_with_many_models(run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.001))
    rows = [chat_row(number, max_tokens=10, model=f"m-{number}") for number in range(120)]

    def known(provider, model):
        return price_of(provider, model) if model.startswith("m-") else None

    assert run(provider, rows=rows, price_of=known).successful == 120

    assert run(provider, rows=rows, price_of=known).end == End.FINISHED.value


def test_a_summary_without_a_limit_shows_no_spend(run, stormbreak_provider):
    summary = run(stormbreak_provider(FILLS), max_cost=None, rows=ROWS[:3])

    assert (summary.max_cost, summary.spent) == (None, None)


def test_rows_in_flight_of_a_killed_run_count_as_spent(run, stormbreak_provider, files):
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


def test_max_output_tokens_bounds_rows_without_a_bound(run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.01, use_max_tokens=True))
    summary = run(provider, rows=chat_rows(20), max_output_tokens=100)

    assert summary.successful == 20
    assert summary.output_tokens == 2000


def test_a_first_row_without_a_bound_is_rejected_before_any_request(run, stormbreak_provider):
    provider = stormbreak_provider(FILLS)
    with pytest.raises(ConfigurationError, match=r"row 'row-0': nothing .* --max-output-tokens"):
        run(provider, rows=chat_rows(20))

    assert provider.stats()["arrivals"] == 0


def test_an_unbounded_first_row_error_names_the_field(run, stormbreak_provider):
    with pytest.raises(ConfigurationError, match=r"its service_tier may cost more .* known$"):
        run(stormbreak_provider(FILLS), rows=chat_rows(1, max_tokens=10, service_tier="priority"))


BAD = [{"role": "user", "content": "bad"}]
UNBOUNDED_FIRST = [chat_row(0), *chat_rows(3, max_tokens=10, messages=BAD)[1:]]
UNBOUNDED_LAST = [chat_row(0, max_tokens=10), *chat_rows(3, messages=BAD)[1:]]


@pytest.mark.parametrize("rows", [UNBOUNDED_FIRST, UNBOUNDED_LAST])
@pytest.mark.parametrize("choice", [UNFINISHED_ROWS, failed_rows()])
def test_a_resume_checks_the_bound_of_the_first_unfinished_row(
    run, stormbreak_provider, tmp_path, rows, choice
):
    kind = "400" if choice is not UNFINISHED_ROWS else "500"
    failing = stormbreak_provider(scenario({"kind": kind, "match": "bad"}))
    assert run(failing, rows=rows, max_cost=None, policy=OFF).failed == 2  # each is sent once
    before = read(tmp_path / "out.failed.jsonl")
    healthy = stormbreak_provider(scenario(use_max_tokens=True))
    if rows is UNBOUNDED_FIRST:
        assert run(healthy, choice=choice).complete
        return
    with pytest.raises(ConfigurationError, match=r"row 'row-1': nothing .* --max-output-tokens"):
        run(healthy, choice=choice)
    assert healthy.stats()["arrivals"] == 0
    assert read(tmp_path / "out.failed.jsonl") == before


def test_a_later_row_without_a_bound_fails_with_the_reason(run, stormbreak_provider, tmp_path):
    rows = [*chat_rows(3, max_tokens=10), {**chat_rows(1)[0], "custom_id": "open"}]
    summary = run(stormbreak_provider(scenario(service=0.01)), rows=rows)
    (failure,) = read(tmp_path / "out.failed.jsonl")

    assert (summary.successful, summary.failed) == (3, 1)
    assert failure["custom_id"] == "open"
    assert "nothing in the request bounds what it costs" in failure["error"]["message"]


def test_a_model_without_a_price_is_rejected_before_any_request(run, stormbreak_provider):
    with pytest.raises(ConfigurationError, match="no price is known for storm-1 at 127"):
        run(stormbreak_provider(FILLS), price_of=lambda *_: None)


def test_the_command_line_prices_a_limited_run_from_a_price_file(
    stormbreak_provider, tmp_path, capsys
):
    provider = stormbreak_provider(FILLS)
    file = tmp_path / "deal.toml"
    file.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    where = ["--output", str(output), "--base-url", provider.base_url, "--quiet"]
    limit = ["--max-cost", "0.5", "--prices", str(file)]
    exit_code = main(["batch", "run", str(source), *where, *limit])
    out, _ = capsys.readouterr()

    assert exit_code == 1
    assert re.search(
        r"cost +0\.[0-9]+( to 0\.[0-9]+)? USD; [89][0-9] % of the 0\.50 USD that it may cost", out
    )
    assert "too small for the next row; run again with a higher --max-cost" in out

    assert main(["batch", "run", str(source), *where, *limit, "--json"]) == 1
    summary = json.loads(capsys.readouterr()[0])
    assert (summary["end"], summary["max_cost"], summary["answered"]) == ("spent", 0.5, 0)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "5 USD"])
def test_an_invalid_max_cost_is_a_usage_error(value, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS[:1])
    flags = ["--output", str(tmp_path / "o.jsonl"), "--base-url", "http://127.0.0.1:9/v1"]
    assert main(["batch", "run", str(source), *flags, "--max-cost", value]) == 2
    assert "--max-cost" in capsys.readouterr()[1]
