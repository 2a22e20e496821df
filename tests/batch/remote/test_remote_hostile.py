"""Results that break the contract: cut, unordered, repeated, of unknown rows, or of a rejected batch."""

import json
import time

import pytest
from batches import read, write
from remote_batches import QUICK, batch, rows_for, text_of

from stormbreak.provider.batch_api import BatchDesk
from stormbreak.testing import answer_text

URLS = ["/v1/chat/completions", "/v1/messages"]
COUNT = 6


@pytest.fixture
def changed(monkeypatch):
    """Change the provider's responses: `results` gets the result lines, `facts` the description of a batch."""

    def change(results=lambda lines: lines, facts=lambda batch: batch):
        act = BatchDesk.act

        def acting(desk, request, *args):
            done = act(desk, request, *args)
            if request.path.endswith(("/content", "/results")):
                return b"".join(results(done.splitlines(keepends=True)))
            if "/batches/" in request.path:
                return json.dumps(facts(json.loads(done))).encode()
            return done

        monkeypatch.setattr(BatchDesk, "act", acting)

    return change


@pytest.fixture
def submitted(at, stormbreak_provider):
    def submit(url):
        rows = rows_for(url, COUNT)
        write(at / "in.jsonl", rows)
        provider = stormbreak_provider(QUICK)
        done = batch("submit", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url)
        assert done.returncode == 0
        return provider, rows

    return submit


def step_of(at):
    return json.loads((at / "out.jsonl.batches" / "0001.json").read_text())["step"]


def assert_right(at, rows, count=COUNT):
    lines = read(at / "out.jsonl")
    expected = {row["custom_id"]: answer_text(row["body"]) for row in rows}
    assert len(lines) == len({line["custom_id"] for line in lines}) == count
    assert all(text_of(line) == expected[line["custom_id"]] for line in lines)


@pytest.mark.parametrize("url", URLS)
def test_result_lines_may_be_repeated_unknown_and_unordered(at, submitted, changed, url):
    _, rows = submitted(url)
    token = json.loads((at / "out.jsonl.batches" / "0001.json").read_text())["token"]

    def results(lines):
        foreign = [
            lines[0].replace(token.encode(), b"f" * 16),
            lines[0].replace(f"{token}-".encode(), f"{token}-99999".encode()),
            lines[0].replace(f"{token}-".encode(), f"{token}--".encode()),
        ]
        return [*foreign, *reversed(lines), b"\n", *lines]

    changed(results)
    done = batch("fetch", "out.jsonl")
    assert done.returncode == 0
    assert "unknown 3, repeated 6" in done.stderr
    assert_right(at, rows)
    assert step_of(at) == "done"


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "cut",
    [
        lambda lines: [*lines[:3], lines[3][:40]],
        lambda lines: lines[:3],
        lambda lines: [*lines[:3], b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"custom_id": 3}\n'],
        lambda _lines: [b"<html>signed out</html>"],
        lambda _lines: [],
    ],
)
def test_a_batch_with_incomplete_results_stays_open(at, submitted, changed, url, cut, monkeypatch):
    provider, rows = submitted(url)
    with monkeypatch.context() as wrong:
        changed(cut)
        done = batch("fetch", "out.jsonl")
        wrong.undo()
    assert done.returncode == 1
    assert "stays open: its results are incomplete" in done.stderr
    assert step_of(at) == "ended"
    found = len(read(at / "out.jsonl"))
    assert found in (0, 3)
    assert_right(at, rows, found)
    refused = batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url)
    assert refused.returncode == 2


def test_fetch_completes_a_batch_when_the_missing_results_arrive(at, submitted, changed):
    _, rows = submitted(URLS[0])
    downloads = []

    def results(lines):
        downloads.append(1)
        failed = json.loads(lines[0])
        failed["response"] = {"status_code": 400, "request_id": "r", "body": {"error": {}}}
        lines = [json.dumps(failed).encode() + b"\n", *lines[1:]]
        return lines[:2] if len(downloads) <= 3 else lines

    changed(results)
    assert batch("fetch", "out.jsonl").returncode == 1
    assert len(downloads) == 3
    assert_right(at, rows, 1)
    assert batch("fetch", "out.jsonl").returncode == 1
    assert_right(at, rows, COUNT - 1)
    (failed,) = read(at / "out.failed.jsonl")
    assert (failed["error"]["verdict"], failed["error"]["attempts"]) == ("invalid", 1)


def test_accept_partial_closes_a_batch_with_missing_results(at, submitted, changed):
    provider, rows = submitted(URLS[0])
    changed(lambda lines: lines[:2])
    done = batch("fetch", "--accept-partial", "out.jsonl")
    assert done.returncode == 1
    assert "missing 4" in done.stderr
    assert step_of(at) == "done"
    spent = json.loads((at / "out.jsonl.run").read_text())["account"]["spent"]
    assert [each["useful"]["attempts"] for each in spent] == [2]
    assert [each["wasted_open"]["attempts"] for each in spent] == [4]  # they may be billed
    place = ["--base-url", provider.base_url]
    assert batch("run", "in.jsonl", "-o", "out.jsonl", *place, "-q").returncode == 0
    assert_right(at, rows)


@pytest.mark.parametrize("url", URLS)
def test_a_result_without_content_fails_its_row(at, submitted, changed, url):
    """A batch result is checked like a single response: here the body has no text."""
    _, rows = submitted(url)

    def results(lines):
        first = json.loads(lines[0])
        if url == URLS[0]:
            first["response"]["body"] = {"id": "x"}
        else:
            first["result"]["message"] = {"id": "x"}
        return [json.dumps(first).encode() + b"\n", *lines[1:]]

    changed(results)
    assert batch("fetch", "out.jsonl").returncode == 1
    (failed,) = read(at / "out.failed.jsonl")
    assert failed["error"]["verdict"] == "broken"
    assert_right(at, rows, COUNT - 1)


def test_an_answer_replaces_an_earlier_error_line_of_its_row(at, submitted, changed):
    _, rows = submitted(URLS[0])

    def results(lines):
        first = json.loads(lines[0])
        first["response"] = {"status_code": 500, "request_id": "r", "body": {"error": {}}}
        return [json.dumps(first).encode() + b"\n", *lines]

    changed(results)
    assert batch("fetch", "out.jsonl").returncode == 0
    assert_right(at, rows)
    assert not (at / "out.failed.jsonl").exists()


def test_a_rejected_batch_fails_only_the_row_that_the_error_names(at, submitted, changed):
    provider, rows = submitted(URLS[0])
    errors = {
        "object": "list",
        "data": [
            {
                "code": "invalid_value",
                "message": "bad value 'document 2'",
                "line": 3,
                "param": None,
            },
            {"code": "strange code\n", "message": None, "line": 99},
        ],
    }
    counts = {"total": 0, "completed": 0, "failed": 0}
    gone = {"status": "failed", "output_file_id": "", "error_file_id": None}
    changed(facts=lambda facts: facts | gone | {"errors": errors, "request_counts": counts})
    done = batch("fetch", "out.jsonl")
    assert done.returncode == 1
    assert "batch 1 was refused: invalid_value, line 3" in done.stderr
    assert "document" not in done.stderr + done.stdout
    (failed,) = read(at / "out.failed.jsonl")
    assert (failed["custom_id"], failed["error"]["code"], failed["error"]["verdict"]) == (
        rows[2]["custom_id"], "invalid_value", "invalid",
    )  # fmt: skip
    assert step_of(at) == "done"
    ran = batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url, "--json")
    assert json.loads(ran.stdout)["attempts"] == COUNT - 1


def test_fetch_works_without_request_counts(at, submitted, changed):
    _, rows = submitted(URLS[0])
    changed(facts=lambda facts: facts | {"request_counts": None, "metadata": None, "errors": None})
    assert batch("fetch", "out.jsonl").returncode == 0
    assert_right(at, rows)


@pytest.mark.parametrize("name", ["../../../etc", "a/b", "a?key=1", "a b", "", "x" * 300])
def test_a_malformed_batch_id_is_rejected(at, submitted, changed, name):
    submitted(URLS[0])
    changed(facts=lambda facts: facts | {"id": name})
    done = batch("fetch", "out.jsonl")
    assert done.returncode == 1
    assert "invalid id" in done.stderr


@pytest.mark.parametrize("answer", [{}, {"id": 3}, {"id": "b", "status": None}])
def test_a_response_that_is_not_a_batch_changes_no_state(at, submitted, changed, answer):
    submitted(URLS[0])
    changed(facts=lambda _: answer)
    done = batch("poll", "out.jsonl")
    assert done.returncode == 1
    assert "the provider's answer is malformed" in done.stderr
    assert step_of(at) == "running"


@pytest.mark.parametrize("counts", [None, {"total": 2, "completed": 2, "failed": 0}])
def test_a_completed_batch_stays_open_until_each_row_has_a_result(at, submitted, changed, counts):
    """The missing rows may be billed, so `batch run` must not send them without consent."""
    _, rows = submitted(URLS[0])
    changed(lambda lines: lines[:2], lambda facts: {**facts, "request_counts": counts})
    done = batch("fetch", "out.jsonl")
    assert "stays open: its results are incomplete" in done.stderr
    assert step_of(at) == "ended"
    assert_right(at, rows, 2)


def test_fetch_fails_while_the_request_count_exceeds_the_results(at, submitted, changed):
    _, rows = submitted(URLS[0])
    many = {"total": 99, "completed": 99, "failed": 0}
    changed(facts=lambda facts: {**facts, "request_counts": many})
    done = batch("fetch", "out.jsonl")
    assert (done.returncode, step_of(at)) == (1, "ended")
    assert_right(at, rows)
    assert batch("fetch", "--accept-partial", "out.jsonl").returncode == 0


@pytest.mark.parametrize("url", URLS)
def test_a_response_about_another_batch_changes_nothing(at, submitted, changed, url):
    _, rows = submitted(url)
    wrong = iter([{"id": "batch_other"}])
    changed(facts=lambda facts: {**facts, **next(wrong, {})})
    done = batch("poll", "out.jsonl")
    assert done.returncode == 1
    assert "is about another one, batch_other" in done.stderr
    assert batch("fetch", "out.jsonl").returncode == 0
    assert_right(at, rows)


def test_a_batch_that_the_list_shows_late_is_not_given_up(at, submitted, monkeypatch):
    """`submit` was killed during the creation. If the batch were given up, its rows would be paid twice."""
    monkeypatch.setattr("stormbreak.batch.remote.submit.SETTLED_AFTER", 0.6)
    submitted(URLS[0])
    file = at / "out.jsonl.batches" / "0001.json"
    began = time.time()
    killed = {**json.loads(file.read_text()), "step": "creating", "id": "", "began": began}
    file.write_text(json.dumps(killed))
    act = BatchDesk.act

    def acting(desk, request, *args):
        is_early = request.path.endswith("/batches") and time.time() < began + 0.4
        return b'{"data": []}' if is_early else act(desk, request, *args)

    monkeypatch.setattr(BatchDesk, "act", acting)
    batch("cancel", "out.jsonl")
    assert json.loads(file.read_text())["status"] != "given up"
