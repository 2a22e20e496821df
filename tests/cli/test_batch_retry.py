"""`stormbreak batch retry`: which rows are sent again, and what becomes of them."""

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
from failing import ids, ill, named, rows_that_fail

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
    provider = stormbreak_provider(ill())
    assert batch_run(provider=provider)[0] == 1
    return provider


@pytest.fixture
def well(stormbreak_provider):
    return stormbreak_provider(scenario())


def elsewhere(provider):
    return ("--base-url", provider.base_url)


def test_all_that_failed_is_sent_again_and_nothing_else(provider, well, retry, output, failed):
    before = output.read_bytes()
    code, said, progress = retry(*elsewhere(well))
    lines = dict(line.split(maxsplit=1) for line in said.splitlines())

    assert code == 0
    assert progress.splitlines()[-1].startswith("30 done, 0 failed, 0 left, ")
    assert lines["answered"] == "30 of 30 rows"
    assert lines["retried"] == "11 rows that had failed; 11 of them are now answered"
    assert "next" not in lines
    assert well.stats()["arrivals"] == 11
    assert output.read_bytes().startswith(before)
    assert_answered(ROWS, output)
    assert not failed.exists()


def test_without_a_word_it_goes_to_where_the_last_run_went(provider, retry, failed):
    arrived = provider.stats()["arrivals"]
    code, said, _ = retry("--json")
    summary = json.loads(said)

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
def test_only_what_failed_so_and_the_rest_stays_untouched(
    provider, well, retry, output, failed, only, sent
):
    before = {line["custom_id"]: line for line in read(failed)}
    code, said, _ = retry(*elsewhere(well), *only, "--json")
    summary = json.loads(said)

    assert code == 1
    assert well.stats()["arrivals"] == summary["retried"] == summary["recovered"] == len(sent)
    assert (summary["successful"], summary["failed"]) == (19 + len(sent), 11 - len(sent))
    assert named(read(output)) >= ids(sent)
    assert {line["custom_id"]: line for line in read(failed)} == {
        name: line for name, line in before.items() if name not in ids(sent)
    }


def test_an_unknown_verdict_is_refused_with_the_known_ones(provider, retry, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, errors = retry("--only", "auth,unlucky")
    said = one_line(errors)

    assert code == 2
    assert "--only" in said
    assert "got 'unlucky'" in said
    assert "throttled, overloaded, server_error," in said
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_who_fails_again_has_the_new_reason_and_all_attempts(
    provider, retry, output, failed, stormbreak_provider
):
    other = stormbreak_provider(scenario({"kind": "content_filter", "match": "(meets 400)"}))
    code, said, _ = retry(*elsewhere(other))
    lines = dict(line.split(maxsplit=1) for line in said.splitlines())

    assert code == 1
    assert lines["retried"] == "11 rows that had failed; 7 of them are now answered"
    assert lines["next"] == f"fix the cause, then: stormbreak batch retry {output}"
    errors = {line["custom_id"]: line["error"] for line in read(failed)}
    assert errors.keys() == ids(range(4))
    assert {(it["verdict"], it["attempts"]) for it in errors.values()} == {("filtered", 2)}


def test_rows_that_were_never_sent_are_left_for_batch_run(
    source, output, failed, batch_run, retry, well, stormbreak_provider
):
    rows = rows_that_fail(200, _400=range(19))
    write(source, rows)
    args = run_args(source, output, stormbreak_provider(ill(service=0.3)).base_url)
    with started(*args, "--concurrency", "30") as process:
        wait_until(lambda: size_of(failed), "a failure")
        process.kill()
        assert process.wait() == -9
    code, said, _ = retry(*elsewhere(well), "--json")
    summary = json.loads(said)
    assert code == 1
    assert summary["recovered"] == summary["retried"] > 0
    assert summary["left"] > 0
    assert f"{summary['left']:,}; batch run continues with them" in retry(*elsewhere(well))[1]
    assert batch_run("--quiet", provider=well)[0] == 0
    assert_answered(rows, output)


def test_nothing_to_send(source, output, batch_run, retry, well):
    write(source, ROWS[11:])
    assert batch_run(provider=well)[0] == 0
    arrived, before = well.stats()["arrivals"], output.read_bytes()
    code, said, _ = retry()
    assert code == 0
    assert "retried    0 rows that had failed" in said
    assert (well.stats()["arrivals"], output.read_bytes()) == (arrived, before)


def test_a_key_that_is_still_wrong_stops_it_and_costs_no_row(
    source, output, failed, batch_run, retry, stormbreak_provider
):
    rows = rows_that_fail(60, _401=range(0, 60, 2))
    write(source, rows)
    provider = stormbreak_provider(ill())
    assert batch_run("--concurrency", "2", provider=provider)[0] == 1
    before, arrived = failed.read_bytes(), provider.stats()["arrivals"]
    code, said, _ = retry()

    assert code == 1
    assert "the key was refused" in said
    assert provider.stats()["arrivals"] - arrived == 20
    assert failed.read_bytes() == before


def test_ordered_as_the_last_run_was(source, output, batch_run, retry, well, stormbreak_provider):
    assert batch_run("--ordered", provider=stormbreak_provider(ill()))[0] == 1
    assert retry(*elsewhere(well))[0] == 0
    assert [line["custom_id"] for line in read(output)] == [f"row-{n}" for n in range(30)]


def test_batch_run_goes_on_after_it(provider, well, retry, batch_run, output, failed):
    assert retry("--only", "auth", *elsewhere(well))[0] == 1
    arrived = well.stats()["arrivals"]
    assert batch_run(provider=well)[0] == 1
    assert well.stats()["arrivals"] == arrived
    assert named(read(failed)) == ids([*range(4), 9, 10])


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(provider, retry, tmp_path):
    arrived = provider.stats()["arrivals"]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, said, _ = retry("--dry-run", "--only", "auth,invalid", "--max-cost", "3")

    assert code == 0
    assert said.splitlines()[0] == "would send 9 of 11 failed rows (auth 5, invalid 4)"
    assert f"--base-url {provider.base_url}" in said
    assert "--max-cost 3.0" in said
    code, said, _ = retry("--dry-run", "--json")
    told = json.loads(said)
    assert (code, told["rows"]) == (0, 11)
    assert told["verdicts"] == {"auth": 5, "invalid": 4, "not_found": 2}
    assert told["flags"] == {"base_url": provider.base_url}
    assert provider.stats()["arrivals"] == arrived
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
