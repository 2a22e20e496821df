"""A revoked key or exhausted credit in the middle of a run stops the run and loses no row."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from batches import chat_rows, read, write
from odd_servers import post_server
from sockets import BODY

from stormbreak.batch import run
from stormbreak.batch.running.failure_reasons import AccountErrors
from stormbreak.batch.running.runner import End
from stormbreak.cli.main import main
from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target, Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

REFUSALS = {
    "auth": (401, "invalid_api_key", "The key was revoked."),
    "billing": (402, "insufficient_quota", "You have no credit left."),
    "invalid": (400, "bad_parameter", "max_tokens is not known here."),
}
WIDTH = 4


def refusal(kind):
    status, code, message = REFUSALS[kind]
    return status, json.dumps({"error": {"code": code, "message": message}}).encode()


class Provider:
    """Responds by `refuses(number, body)`: None for an answer, or the kind of the error."""

    def __init__(self, refuses):
        self.refuses = refuses
        self.lock = threading.Lock()
        self.counted = Counter()
        self.base_url = ""

    def answer(self, _, body):
        with self.lock:
            number = sum(self.counted.values())
            kind = self.refuses(number, body)
            self.counted[kind] += 1
        return (200, BODY) if kind is None else refusal(kind)


@contextmanager
def provided(refuses):
    provider = Provider(refuses)
    with post_server(provider.answer) as url:
        provider.base_url = f"{url}/v1"
        yield provider


def number_of(body):
    return int(json.loads(body)["messages"][0]["content"].split()[1])


# ------------------------------------------------------------ in the middle of a run


@pytest.mark.parametrize("kind", ["auth", "billing"])
def test_a_rejected_account_stops_the_run_and_the_next_run_sends_its_rows(
    tmp_path, output, capsys, kind
):
    source = write(tmp_path / "in.jsonl", chat_rows(400))
    with provided(lambda number, _: kind if number >= 151 else None) as provider:
        words = ["batch", "run", str(source), "--output", str(output), "--concurrency", str(WIDTH)]
        words += ["--base-url", provider.base_url]
        code = main(words)
        printed, _ = capsys.readouterr()
        assert code == 1
        assert len(read(output)) == 151
        assert PROBE_ROWS <= provider.counted[kind] <= PROBE_ROWS + 2 * WIDTH
        assert not (tmp_path / "out.failed.jsonl").exists()
        status, error_code, message = REFUSALS[kind]
        assert f"reason     {kind} {status} {error_code}: {message}" in printed
        assert "fix the cause, then run the same command again" in printed
        provider.refuses = lambda *_: None
        assert main([*words, "--quiet"]) == 0
    assert Counter(line["custom_id"] for line in read(output)) == Counter(
        row["custom_id"] for row in chat_rows(400)
    )


def test_rows_in_flight_at_an_account_error_are_answered_and_written(run_rows, output):
    slow = threading.Event()

    def refuses(_, body):
        number = number_of(body)
        return "auth" if number > 30 else None

    with provided(refuses) as provider:
        quick = provider.answer

        def answer(path, body):
            if number_of(body) == 30:
                slow.wait(30)
            got = quick(path, body)
            if provider.counted["auth"] >= PROBE_ROWS:
                slow.set()
            return got

        provider.answer = answer
        with post_server(answer) as url:
            place = SimpleNamespace(base_url=f"{url}/v1")
            summary = run_rows(chat_rows(200), place, concurrency=WIDTH)
    assert (summary.end, summary.refused_by) == (End.REFUSED.value, Verdict.AUTH)
    assert summary.failed == 0
    assert "row-30" in {line["custom_id"] for line in read(output)}
    assert summary.successful == len(read(output)) == 31
    assert summary.reason.rows == provider.counted["auth"]


def test_one_ctrl_c_cuts_off_no_row_of_a_run_that_stops_by_itself(run_rows, output):
    release = threading.Event()

    def answer(_, body):
        if number_of(body) > 30:
            return refusal("auth")
        if number_of(body) == 30:
            release.wait(30)
        return 200, BODY

    def tick(runner):
        if runner.refused_by and not runner.interrupted:
            runner.interrupt()
        elif runner.interrupted:
            release.set()

    with post_server(answer) as url:
        place = SimpleNamespace(base_url=f"{url}/v1")
        summary = run_rows(chat_rows(200), place, concurrency=WIDTH, tick=tick)
    assert (summary.end, summary.successful) == ("refused", 31)
    assert len(read(output)) == 31


def test_account_errors_among_answers_fail_only_their_rows(run_rows, output):
    """For example, the key may use only some of the models."""
    with provided(lambda _, body: "auth" if number_of(body) % 2 else None) as provider:
        summary = run_rows(chat_rows(120), provider, concurrency=WIDTH)
    assert (summary.end, summary.successful, summary.failed) == ("finished", 60, 60)
    verdicts = {line["error"]["verdict"] for line in read(output.parent / "out.failed.jsonl")}
    assert verdicts == {"auth"}


def test_fast_account_errors_among_slow_answers_do_not_stop_the_run(run_rows):
    """Twenty account errors arrive before the first slow answer. The run waits for the rows in flight, and the last rows are answered."""

    def answer(_, body):
        number = number_of(body)
        if number < 120 and number % 2:
            return refusal("auth")
        if 0 < number < 120:
            time.sleep(0.2)
        return 200, BODY

    with post_server(answer) as url:
        place = SimpleNamespace(base_url=f"{url}/v1")
        summary = run_rows(chat_rows(200), place, concurrency=60)
    assert (summary.end, summary.successful, summary.failed) == ("finished", 140, 60)


def test_account_errors_of_requests_sent_at_once_do_not_stop_the_run(run_rows):
    """Half of sixty concurrent requests get an account error. The next rows are invalid, then a row is answered."""
    at_once = threading.Barrier(60)

    def answer(_, body):
        number = number_of(body)
        if 0 < number <= 60:
            at_once.wait(30)
            if number % 2:
                return refusal("auth")
            time.sleep(0.2)
        return refusal("invalid") if 60 < number <= 90 else (200, BODY)

    with post_server(answer) as url:
        place = SimpleNamespace(base_url=f"{url}/v1")
        summary = run_rows(chat_rows(200), place, concurrency=60)
    assert (summary.end, summary.successful, summary.failed) == ("finished", 140, 60)


def test_a_revoked_key_of_the_fallback_stops_the_run(tmp_path, output, stormbreak_provider, capsys):
    """The first provider lacks the model of most rows and answers the others."""
    rows = chat_rows(200)
    source = write(tmp_path / "in.jsonl", rows)

    def missing(_, body):
        return 200 if number_of(body) % 4 == 0 else 404

    def first(_, body):
        status = missing(_, body)
        return status, BODY if status == 200 else b'{"error": {"code": "model_not_found"}}'

    with post_server(first) as url, provided(lambda n, _: "auth" if n > 30 else None) as second:
        words = ["batch", "run", str(source), "--output", str(output), "--json", "--quiet"]
        words += ["--base-url", f"{url}/v1", "--fallback-base-url", second.base_url]
        code = main([*words, "--concurrency", "4"])
    summary = json.loads(capsys.readouterr().out)
    assert (code, summary["end"], summary["refused_by"]) == (1, "refused", "auth")
    assert summary["failed"] == 0
    assert second.counted["auth"] <= PROBE_ROWS + 2 * WIDTH


def test_run_returns_the_account_error_in_its_summary(output):
    rows = [{"prompt": f"document {n}"} for n in range(200)]
    with provided(lambda number, _: "billing" if number >= 50 else None) as provider:
        options = {"output": output, "model": "m", "concurrency": WIDTH}
        summary = run(rows, base_url=provider.base_url, **options)
        assert (summary.end, summary.refused_by, summary.successful) == ("refused", "billing", 50)
        assert (summary.failed, list(summary.failures())) == (0, [])
        assert summary.reason.message == "You have no credit left."
        provider.refuses = lambda *_: None
        assert run(rows, base_url=provider.base_url, **options).complete


# ------------------------------------------------------------ from the first row on


def test_the_same_invalid_error_for_all_first_rows_stops_the_run(run_rows, output):
    with provided(lambda *_: "invalid") as provider:
        summary = run_rows(chat_rows(300), provider)
    assert (summary.end, summary.refused_by) == ("refused", Verdict.INVALID)
    assert sum(provider.counted.values()) == PROBE_ROWS
    assert (summary.left, summary.failed) == (300, 0)
    assert str(summary.reason) == "400 bad_parameter: max_tokens is not known here."


def test_later_invalid_rows_do_not_stop_a_resumed_run(run_rows, output):
    """Earlier rows were answered, so the options of the run are valid."""
    seen = []

    def tick(runner):
        if runner.journal.done >= 10 and not seen:
            seen.append(runner.journal.done)
            runner.interrupt()

    bad = range(60, 120)
    with provided(lambda _, body: "invalid" if number_of(body) in bad else None) as provider:
        first = run_rows(chat_rows(200)[:60], provider, limit=2)
        assert first.successful == 60
        with (output.parent / "in.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in chat_rows(200)[60:])
        with pytest.raises(ConfigurationError, match="different content"):
            run_rows(None, provider)
        _record_the_longer_input(output)
        summary = run_rows(None, provider)
    assert (summary.end, summary.successful, summary.failed) == ("finished", 140, 60)


def _record_the_longer_input(output):
    from stormbreak.batch.input.index import Rows  # noqa: PLC0415

    file = output.parent / "out.jsonl.run"
    run = json.loads(file.read_text())
    with Rows.read(output.parent / "in.jsonl") as rows:
        run |= {"fingerprint": rows.fingerprint, "rows": len(rows)}
    file.write_text(json.dumps(run))


# ------------------------------------------------------------ suspect accounts

A, B = Target("a", "m", "1"), Target("b", "m", "2")


def refused(refusals, count, account=A, verdict=Verdict.AUTH, *, now=10.0):
    for number in range(count):
        assert refusals.note(account, verdict, number, sent_at=now - 1, now=now) == []


def test_an_account_is_suspect_after_probe_rows_errors():
    refusals = AccountErrors()
    refused(refusals, PROBE_ROWS - 1)
    assert refusals.suspect is None
    refused(refusals, 1, now=11.0)
    assert refusals.suspect == (10.0, Verdict.AUTH, False)


def test_errors_of_later_calls_confirm_a_suspect_account():
    refusals = AccountErrors()
    refused(refusals, PROBE_ROWS, now=10.0)
    for number in range(PROBE_ROWS // 2):
        assert not refusals.suspect.is_tried
        refusals.note(A, Verdict.AUTH, number, sent_at=10.0, now=11.0)
    assert refusals.suspect.is_tried


def test_an_answer_to_a_later_call_clears_a_suspect_account():
    refusals = AccountErrors()
    refused(refusals, PROBE_ROWS)
    assert refusals.note(A, Verdict.OK, None, sent_at=9.0, now=12.0) == []
    assert refusals.note(B, Verdict.OK, None, sent_at=11.0, now=12.0) == []
    assert refusals.note(A, Verdict.THROTTLED, None, sent_at=11.0, now=12.0) == []
    assert refusals.suspect is not None
    other_model = A._replace(model="n")
    assert refusals.note(other_model, Verdict.OK, None, sent_at=10.0, now=12.0) == [
        *range(PROBE_ROWS)
    ]
    assert refusals.suspect is None
    assert refusals.release() == []


def test_errors_are_counted_per_account():
    refusals = AccountErrors()
    for _ in range(PROBE_ROWS - 1):
        refused(refusals, 1, A)
        refused(refusals, 1, B, Verdict.BILLING)
    assert refusals.suspect is None
    refused(refusals, 1, B, Verdict.BILLING)
    assert refusals.suspect == (10.0, Verdict.BILLING, False)
    assert len(refusals.release()) == 2 * PROBE_ROWS - 1
