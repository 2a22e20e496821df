"""`stormbreak batch retry`: the rows that it sends, and their results."""

import json

import pytest
from batches import (
    assert_answered,
    one_line,
    read,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from failing import failing_scenario, ids, named, rows_that_fail

from stormbreak.cli.main import main

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

ROWS = rows_that_fail(30, _400=range(4), _401=range(4, 9), _404=range(9, 11))


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", ROWS)


@pytest.fixture
def retry(output, capsys):
    """Retry in this process; return the exit code, stdout and stderr."""

    def call(*flags):
        code = main(["batch", "retry", str(output), *flags])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def provider(stormbreak_provider, batch_run):
    """A provider at which eleven rows have failed for good."""
    provider = stormbreak_provider(failing_scenario())
    assert batch_run(provider=provider)[0] == 1
    return provider


@pytest.fixture
def healthy(stormbreak_provider):
    return stormbreak_provider(scenario())


def elsewhere(provider):
    return ("--base-url", provider.base_url)


def test_retry_sends_all_failed_rows_and_no_others(provider, healthy, retry, output, failed):
    before = output.read_bytes()
    code, out, progress = retry(*elsewhere(healthy))
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())

    assert code == 0
    assert progress.splitlines()[-1].startswith("30 done, 0 failed, 0 left, ")
    assert lines["answered"] == "30 of 30 rows"
    assert lines["retried"] == "11 rows that had failed; 11 of them are now answered"
    assert "next" not in lines
    assert healthy.stats()["arrivals"] == 11
    assert output.read_bytes().startswith(before)
    assert_answered(ROWS, output)
    assert not failed.exists()


def test_retry_without_flags_uses_the_address_of_the_last_run(provider, retry, failed):
    arrived = provider.stats()["arrivals"]
    code, out, _ = retry("--json")
    summary = json.loads(out)

    assert code == 1
    assert provider.stats()["arrivals"] - arrived == summary["attempts"] == 11
    assert (summary["retried"], summary["recovered"], summary["failed"]) == (11, 0, 11)
    assert (summary["answered"], summary["left"]) == (0, 0)
    assert named(read(failed)) == ids(range(11))


@pytest.mark.parametrize(
    ("only", "sent"),
    [
        (("--only", "auth"), range(4, 9)),
        (("--only", "auth,not_found"), range(4, 11)),
        (("--only", "not_found", "--only", "auth"), range(4, 11)),
        (("--only", "timeout"), ()),
    ],
)
def test_only_sends_rows_with_these_verdicts(provider, healthy, retry, output, failed, only, sent):
    before = {line["custom_id"]: line for line in read(failed)}
    code, out, _ = retry(*elsewhere(healthy), *only, "--json")
    summary = json.loads(out)

    assert code == 1
    assert healthy.stats()["arrivals"] == summary["retried"] == summary["recovered"] == len(sent)
    assert (summary["successful"], summary["failed"]) == (19 + len(sent), 11 - len(sent))
    assert named(read(output)) >= ids(sent)
    assert {line["custom_id"]: line for line in read(failed)} == {
        name: line for name, line in before.items() if name not in ids(sent)
    }


def test_an_unknown_verdict_is_rejected_with_a_list_of_the_known_ones(provider, retry, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = retry("--only", "auth,unlucky")
    error = one_line(errors)

    assert code == 2
    assert "--only" in error
    assert "got 'unlucky'" in error
    assert "throttled, overloaded, server_error," in error
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_row_that_fails_again_has_the_new_error_and_all_attempts(
    provider, retry, output, failed, stormbreak_provider
):
    other = stormbreak_provider(scenario({"kind": "content_filter", "match": "(meets 400)"}))
    code, out, _ = retry(*elsewhere(other))
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())

    assert code == 1
    assert lines["retried"] == "11 rows that had failed; 7 of them are now answered"
    assert lines["next"] == f"fix the cause, then: stormbreak batch retry {output}"
    errors = {line["custom_id"]: line["error"] for line in read(failed)}
    assert errors.keys() == ids(range(4))
    assert {(it["verdict"], it["attempts"]) for it in errors.values()} == {("filtered", 2)}


def test_retry_leaves_unsent_rows_for_batch_run(
    source, output, failed, batch_run, retry, healthy, stormbreak_provider
):
    rows = rows_that_fail(200, _400=range(19))
    write(source, rows)
    args = run_args(source, output, stormbreak_provider(failing_scenario(service=0.3)).base_url)
    with started(*args, "--concurrency", "30") as process:
        wait_until(lambda: size_of(failed), "a failure")
        process.kill()
        assert process.wait() == -9
    code, out, _ = retry(*elsewhere(healthy), "--json")
    summary = json.loads(out)
    assert code == 1
    assert summary["recovered"] == summary["retried"] > 0
    assert summary["left"] > 0
    assert f"{summary['left']:,}; batch run continues with them" in retry(*elsewhere(healthy))[1]
    assert batch_run("--quiet", provider=healthy)[0] == 0
    assert_answered(rows, output)


def test_retry_without_failed_rows_sends_nothing(source, output, batch_run, retry, healthy):
    write(source, ROWS[11:])
    assert batch_run(provider=healthy)[0] == 0
    arrived, before = healthy.stats()["arrivals"], output.read_bytes()
    code, out, _ = retry()
    assert code == 0
    assert "retried    0 rows that had failed" in out
    assert (healthy.stats()["arrivals"], output.read_bytes()) == (arrived, before)


def test_a_wrong_key_stops_a_retry_and_changes_no_row(
    source, output, failed, batch_run, retry, stormbreak_provider
):
    rows = rows_that_fail(60, _401=range(0, 60, 2))
    write(source, rows)
    provider = stormbreak_provider(failing_scenario())
    assert batch_run("--concurrency", "2", provider=provider)[0] == 1
    before, arrived = failed.read_bytes(), provider.stats()["arrivals"]
    code, out, _ = retry()

    assert code == 1
    assert "the key was refused" in out
    assert provider.stats()["arrivals"] - arrived == 20
    assert failed.read_bytes() == before


def test_retry_orders_the_output_if_the_last_run_did(
    source, output, batch_run, retry, healthy, stormbreak_provider
):
    assert batch_run("--ordered", provider=stormbreak_provider(failing_scenario()))[0] == 1
    assert retry(*elsewhere(healthy))[0] == 0
    assert [line["custom_id"] for line in read(output)] == [f"row-{n}" for n in range(30)]


def test_batch_run_after_a_retry_sends_nothing_again(
    provider, healthy, retry, batch_run, output, failed
):
    assert retry("--only", "auth", *elsewhere(healthy))[0] == 1
    arrived = healthy.stats()["arrivals"]
    assert batch_run(provider=healthy)[0] == 1
    assert healthy.stats()["arrivals"] == arrived
    assert named(read(failed)) == ids([*range(4), 9, 10])


def test_a_dry_run_lists_the_rows_to_send_and_sends_nothing(provider, retry, tmp_path):
    arrived = provider.stats()["arrivals"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, _ = retry("--dry-run", "--only", "auth,invalid", "--max-cost", "3")

    assert code == 0
    assert out.splitlines()[0] == "would send 9 of 11 failed rows (auth 5, invalid 4)"
    assert f"--base-url {provider.base_url}" in out
    assert "--max-cost 3.0" in out
    code, out, _ = retry("--dry-run", "--json")
    facts = json.loads(out)
    assert (code, facts["rows"]) == (0, 11)
    assert facts["verdicts"] == {"auth": 5, "invalid": 4, "not_found": 2}
    assert facts["flags"] == {"base_url": provider.base_url}
    assert provider.stats()["arrivals"] == arrived
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
