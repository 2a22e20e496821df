"""`batch submit`, `poll`, `fetch` and `cancel` against a provider on a socket, and what goes on with `batch run`."""

import csv
import json
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from batches import read, run, write
from remote_batches import QUICK, batch, listed, rows_for, text_of

from stormbreak.batch.remote.commands import Poller
from stormbreak.testing import answer_text

URLS = ["/v1/chat/completions", "/v1/messages"]


@pytest.fixture
def start(stormbreak_provider):
    def starting(*more, **settings):
        lines = [QUICK, *(f"{name} = {value}" for name, value in settings.items()), *more]
        return stormbreak_provider(
            "\n".join(lines).replace("seconds = 0\n", "", "seconds" in settings)
        )

    return starting


def submit(provider, *more, source="in.jsonl", out="out.jsonl"):
    return batch("submit", source, "-o", out, "--base-url", provider.base_url, *more)


def state(at, number=1, out="out.jsonl"):
    return json.loads((at / f"{out}.batches" / f"{number:04}.json").read_text())


@pytest.mark.parametrize("url", URLS)
def test_every_row_is_answered_under_its_own_id(at, start, url):
    provider, rows = start(), rows_for(url, 25)
    write(at / "in.jsonl", rows)
    done = submit(provider, "--batch-size", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "submitted  25 rows in 3 batch(es)" in done.stdout
    assert [
        len(json.loads((at / "out.jsonl.batches" / f"000{n}.json").read_text())["rows"])
        for n in (1, 2, 3)
    ] == [2, 2, 2]
    assert len(listed(provider.base_url, url)) == 3
    polled = batch("poll", "out.jsonl", "--json")
    assert polled.returncode == 0
    assert [each["step"] for each in json.loads(polled.stdout)] == ["ended"] * 3
    fetched = batch("fetch", "out.jsonl")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert "answered   25 of 25 rows" in fetched.stdout
    lines = {line["custom_id"]: line for line in read(at / "out.jsonl")}
    assert {name: text_of(line) for name, line in lines.items()} == {
        row["custom_id"]: answer_text(row["body"]) for row in rows
    }
    assert {line["service_tier"] for line in lines.values()} == {"batch"}
    assert not [*(at / "out.jsonl.batches").glob("*.results")]
    again = batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url, "--json")
    assert json.loads(again.stdout)["attempts"] == 0
    assert "0 rows in 0 batch(es)" in submit(provider).stdout
    assert "25 (100.0%)" in batch("status", "out.jsonl").stdout


@pytest.mark.parametrize("url", URLS)
def test_batch_run_sends_rows_that_expired_or_failed_in_a_batch(at, start, url):
    provider, rows = start(expired=0.3, failed=0.3), rows_for(url, 40)
    write(at / "in.jsonl", rows)
    submit(provider)
    fetched = batch("fetch", "out.jsonl", "--json")
    assert fetched.returncode == 1
    facts = json.loads(fetched.stdout)
    failed = read(at / "out.failed.jsonl")
    assert facts["failed"] == len(failed) > 0
    assert {line["error"]["verdict"] for line in failed} == {"server_error"}
    assert facts["left"] == facts["batches"][0]["odd"]["not processed"] > 0
    ran = batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url, "--json")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["answered"] == facts["left"] + facts["failed"]
    lines = read(at / "out.jsonl")
    assert Counter(line["custom_id"] for line in lines) == Counter(r["custom_id"] for r in rows)
    assert Counter(line.get("service_tier") for line in lines)["batch"] == facts["successful"]
    assert (
        provider.stats()["keys"] | {"answered_twice": 0, "answered": 40} == provider.stats()["keys"]
    )


def test_run_and_retry_refuse_rows_of_an_open_batch(at, start):
    provider = start(seconds=1000)
    write(at / "in.jsonl", rows_for(URLS[0], 3))
    submit(provider)
    place = ["--base-url", provider.base_url]
    ran = batch("run", "in.jsonl", "-o", "out.jsonl", *place)
    assert ran.returncode == 2
    assert "3 of its rows are in 1 batch(es) at the provider" in ran.stderr
    assert batch("retry", "out.jsonl").returncode == 2
    assert "batches  3 rows are at the provider" in batch("status", "out.jsonl").stdout
    assert "submitted  0 rows" in submit(provider).stdout
    assert provider.stats()["keys"]["asked"] == 0
    polled = batch("poll", "out.jsonl")
    assert polled.returncode == 1
    assert "in_progress" in polled.stdout
    fetched = batch("fetch", "out.jsonl")
    assert fetched.returncode == 1
    assert "0 fetched, 1 open" in fetched.stdout
    cancelled = batch("cancel", "out.jsonl")
    assert (cancelled.returncode, "ended (cancelled)" in cancelled.stdout) == (0, True)
    fetched = batch("fetch", "out.jsonl")
    assert "left       3; not processed 3" in fetched.stdout
    assert batch("run", "in.jsonl", "-o", "out.jsonl", *place, "-q").returncode == 0
    assert len(read(at / "out.jsonl")) == 3


def test_fetch_with_wait_polls_until_the_batch_ends(at, start, monkeypatch):
    provider = start(seconds=3600)
    polled = Poller._polled

    async def polled_before_the_end(self, batch):
        found = await polled(self, batch)
        (running,) = provider._server._desk._batches.values()
        running.ends_at = 0.0
        return found

    monkeypatch.setattr(Poller, "_polled", polled_before_the_end)
    monkeypatch.setattr("stormbreak.batch.remote.commands.FIRST_PAUSE", 0.05)
    write(at / "in.jsonl", rows_for(URLS[0], 3))
    submit(provider)
    fetched = batch("fetch", "--wait", "out.jsonl")
    assert fetched.returncode == 0
    assert "in_progress" in fetched.stderr
    assert len(read(at / "out.jsonl")) == 3


def test_each_batch_has_one_model_and_endpoint(at, start):
    rows = rows_for(URLS[0], 6) + rows_for(URLS[1], 2)
    for number, row in enumerate(rows):
        row["custom_id"] = f"row {number}"
        row["body"]["model"] = f"model-{number % 2}"
    write(at / "in.jsonl", rows)
    provider = start()
    assert submit(provider).returncode == 0
    kinds = [
        (state(at, n)["endpoint"], state(at, n)["model"], state(at, n)["rows"])
        for n in (1, 2, 3, 4)
    ]
    assert kinds == [
        ("/chat/completions", "model-0", [0, 1, 2, 3, 4, 5]),
        ("/chat/completions", "model-1", [1, 2, 3, 4, 5, 6]),
        ("/messages", "model-0", [6, 7]),
        ("/messages", "model-1", [7, 8]),
    ]
    assert batch("fetch", "out.jsonl").returncode == 0
    assert len(read(at / "out.jsonl")) == 8


def test_batches_respect_the_size_limit_of_the_provider(at, start, monkeypatch):
    monkeypatch.setattr("stormbreak.batch.remote.openai_api.FileBatches.max_bytes", 1_000)
    provider = start()
    write(at / "in.jsonl", rows_for(URLS[0], 12))
    submit(provider)
    batches = [json.loads(p.read_text()) for p in sorted((at / "out.jsonl.batches").glob("*.json"))]
    assert len(batches) > 1
    assert max(each["size"] for each in batches) <= 1_000
    with urllib.request.urlopen(f"{provider.base_url}/files?purpose=batch&limit=100") as answer:
        sizes = [each["bytes"] for each in json.load(answer)["data"]]
    assert len(sizes) == len(batches)
    assert max(sizes) <= 1_000
    long = rows_for(URLS[0], 1)
    long[0]["body"]["messages"][0]["content"] = "x" * 1_000
    write(at / "long.jsonl", long)
    refused = submit(provider, source="long.jsonl", out="long.out.jsonl")
    assert refused.returncode == 2
    assert "larger than a batch may be (1,000 bytes)" in refused.stderr


def test_each_text_of_an_embeddings_row_counts_against_max_rows(at, start, monkeypatch):
    monkeypatch.setattr("stormbreak.batch.remote.openai_api.FileBatches.max_rows", 4)
    rows = [
        {
            "custom_id": f"e{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "small", "input": ["a", f"{number}"]},
        }
        for number in range(3)
    ]
    write(at / "in.jsonl", rows)
    submit(start())
    assert [state(at, number)["rows"] for number in (1, 2)] == [[0, 2], [2, 3]]
    assert batch("fetch", "out.jsonl").returncode == 0


def test_a_submitted_table_is_fetched_as_a_table(at, start):
    provider = start()
    with Path("rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "title", "secret"], *([n, f"T{n}", f"s{n}"] for n in range(5))]
        )
    done = submit(
        provider, "--prompt", "Tell {title}", "--id", "id", "-m", "storm-1", source="rows.csv", out="out.csv",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert batch("fetch", "out.csv").returncode == 0
    with Path("out.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    asked = [
        {"model": "storm-1", "messages": [{"role": "user", "content": f"Tell T{n}"}]}
        for n in range(5)
    ]
    assert [row["answer"] for row in table] == [answer_text(each) for each in asked]
    assert [row["secret"] for row in table] == [f"s{n}" for n in range(5)]


def test_a_table_can_be_submitted_to_the_messages_endpoint(at, start):
    (at / "rows.csv").write_text("title\nStorms\nCalms\n")
    table = ["--prompt", "Tell {title}", "--url", "/v1/messages", "--max-output-tokens", "9"]
    done = submit(start(), *table, "-m", "storm-1", source="rows.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert state(at)["endpoint"] == "/messages"
    assert batch("fetch", "out.jsonl").returncode == 0


def test_a_streamed_row_can_be_submitted(at, start):
    rows = rows_for(URLS[0], 2)
    rows[0]["body"] |= {"stream": True, "stream_options": {"include_usage": True}}
    write(at / "in.jsonl", rows)
    submit(start())
    assert batch("fetch", "out.jsonl").returncode == 0


# ---------------------------------------------------------------- money

PRICES = """
[[prices]]
provider = "{provider}"
model = "storm-1"
input = 10
output = 20
batch = {{ input = 5, output = 10 }}
"""


@pytest.fixture
def priced(at, start):
    provider = start()
    name = provider.base_url.removeprefix("http://").removesuffix("/v1")
    (at / "prices.toml").write_text(PRICES.format(provider=name))
    return provider


def test_batch_answers_cost_the_batch_price(at, priced):
    rows = rows_for(URLS[0], 4)
    for row in rows:
        row["body"]["max_tokens"] = 30
    write(at / "in.jsonl", rows)
    submit(priced, "--prices", "prices.toml")
    assert state(at)["max_usd"] is not None
    fetched = json.loads(batch("fetch", "out.jsonl", "--json").stdout)
    usage = [line["response"]["body"]["usage"] for line in read(at / "out.jsonl")]
    tokens = [sum(each[kind] for each in usage) for kind in ("prompt_tokens", "completion_tokens")]
    usd = (5 * tokens[0] + 10 * tokens[1]) / 1_000_000
    assert fetched["cost"]["min_usd"] == fetched["cost"]["max_usd"] == pytest.approx(usd)
    status = json.loads(batch("status", "out.jsonl", "--prices", "prices.toml", "--json").stdout)
    assert status["cost"]["min_usd"] == pytest.approx(usd)
    report = json.loads(
        run("cost", "report", "out.jsonl", "--prices", "prices.toml", "--json").stdout
    )
    assert report["models"][0]["useful"] == pytest.approx(usd, abs=1e-6)
    batch("export", "out.jsonl", "table.csv", "--prices", "prices.toml")
    with Path("table.csv").open(newline="") as file:
        assert sum(float(row["cost"]) for row in csv.DictReader(file)) == pytest.approx(usd)


def test_a_spend_limit_reserves_the_maximum_cost_of_open_batches(at, priced):
    rows = rows_for(URLS[0], 6)
    for row in rows:
        row["body"]["max_tokens"] = 1_000  # of output: 0.01 USD a row
    write(at / "in.jsonl", rows)
    limit = ["--prices", "prices.toml", "--batch-size", "2", "--max-cost", "0.05"]
    done = submit(priced, *limit)
    assert done.returncode == 1
    assert "submitted  4 rows in 2 batch(es)" in done.stdout
    assert "not sent   2 rows: the next batch can cost 0.02 USD" in done.stdout
    assert "submitted  0 rows" in submit(priced, *limit).stdout  # what is open is still reserved
    assert batch("fetch", "out.jsonl").returncode == 1
    assert "submitted  2 rows" in submit(priced, *limit).stdout  # answers were short


def test_a_spend_limit_needs_an_output_bound_and_prices(at, priced):
    write(at / "in.jsonl", rows_for(URLS[0], 2))
    done = submit(priced, "--max-cost", "1", "--prices", "prices.toml")
    assert done.returncode == 2
    assert "--max-output-tokens" in done.stderr
    done = submit(priced, "--max-cost", "1")
    assert done.returncode == 2
    assert not listed(priced.base_url, URLS[0])


# ---------------------------------------------------------------- refusals and faults


def test_a_rejected_api_key_stops_submit_with_one_line(at, stormbreak_provider):
    provider = stormbreak_provider('[[faults]]\nkind = "401"\n')
    write(at / "in.jsonl", rows_for(URLS[0], 2))
    done = submit(provider)
    assert done.returncode == 1
    assert "cannot upload the requests: auth; status 401" in done.stderr
    assert state(at)["step"] == "uploading"


def test_submit_fails_when_no_server_answers_within_connect_grace(at, free_port):
    write(at / "in.jsonl", rows_for(URLS[0], 2))
    done = batch(
        "submit", "in.jsonl", "-o", "out.jsonl", "--base-url", f"http://127.0.0.1:{free_port}/v1", "--connect-grace", "0.01",
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing answers there" in done.stderr


def test_anthropic_batches_accept_only_messages_rows(at, monkeypatch):
    write(at / "in.jsonl", rows_for(URLS[0], 1))
    done = batch(
        "submit", "in.jsonl", "-o", "out.jsonl", "--provider", "anthropic", ANTHROPIC_API_KEY="k"
    )
    assert done.returncode == 2
    assert "/v1/messages" in done.stderr


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("kind", ["cut_body", "stall_early", "503", "429", "empty_body"])
def test_a_fault_during_creation_creates_no_second_batch(at, start, url, kind):
    place = "/v1/messages/batches" if url == URLS[1] else "/v1/batches"
    fault = f'[[faults]]\nkind = "{kind}"\nmatch = "POST {place}?"\nfirst_attempts = 1\n'
    provider = start(fault)
    write(at / "in.jsonl", rows_for(url, 5))
    done = submit(provider, "--timeout", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(listed(provider.base_url, url)) == 1
    assert batch("fetch", "out.jsonl").returncode == 0
    assert provider.stats()["keys"]["answered_twice"] == 0


def test_a_message_batch_of_unknown_id_is_recognized_by_its_results(at, start, monkeypatch):
    """Anthropic's batches have no metadata: until it ends, the batch may belong to another user."""
    monkeypatch.setattr("stormbreak.batch.remote.commands.FIRST_PAUSE", 0.05)
    fault = (
        '[[faults]]\nkind = "stall_early"\nmatch = "POST /v1/messages/batches?"\nrequests = [3]\n'
    )
    provider, url = start(fault, seconds=1.5), URLS[1]
    write(at / "other.jsonl", rows_for(url, 4)[::-1])
    submit(
        provider, source="other.jsonl", out="other.out.jsonl"
    )  # a batch of another user, of the same size
    urllib.request.urlopen(f"{provider.base_url}/models").close()
    assert len(listed(provider.base_url, url)) == 1  # the second request
    write(at / "in.jsonl", rows_for(url, 4))
    done = submit(provider, "--timeout", "0.3")
    assert done.returncode == 1
    assert "unsure     batch 1" in done.stdout
    assert state(at)["step"] == "creating"
    refused = batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", provider.base_url)
    assert refused.returncode == 2
    assert batch("fetch", "--wait", "out.jsonl").returncode == 0
    assert len(listed(provider.base_url, url)) == 2
    assert {line["custom_id"]: text_of(line) for line in read(at / "out.jsonl")} == {
        row["custom_id"]: answer_text(row["body"]) for row in rows_for(url, 4)
    }


def test_fetch_without_a_submitted_batch_is_an_error(at, start):
    write(at / "in.jsonl", rows_for(URLS[0], 1))
    batch("run", "in.jsonl", "-o", "out.jsonl", "--base-url", start().base_url, "-q")
    done = batch("fetch", "out.jsonl")
    assert (done.returncode, "no batch was submitted" in done.stderr) == (2, True)


def test_the_error_names_a_broken_state_file(at, start):
    write(at / "in.jsonl", rows_for(URLS[0], 1))
    submit(start())
    (at / "out.jsonl.batches" / "0001.json").write_text("{}")
    done = batch("poll", "out.jsonl")
    assert done.returncode == 2
    assert done.stderr.endswith("out.jsonl.batches/0001.json: not a stormbreak batch\n")


def test_a_symbolic_link_as_batches_folder_is_rejected(at, start):
    write(at / "in.jsonl", rows_for(URLS[0], 1))
    (at / "elsewhere").mkdir()
    (at / "out.jsonl.batches").symlink_to("elsewhere")
    done = submit(start())
    assert (done.returncode, "is a symbolic link" in done.stderr) == (2, True)
    assert not [*(at / "elsewhere").iterdir()]


def test_state_files_contain_no_key_and_no_prompt(at, start):
    write(at / "in.jsonl", rows_for(URLS[0], 3))
    key = "sk-secret-key-of-mine-1234567890"
    batch(
        "submit", "in.jsonl", "-o", "out.jsonl", "--base-url", start().base_url, "--api-key-env", "MINE", MINE=key,
    )  # fmt: skip
    kept = [*(at / "out.jsonl.batches").iterdir(), at / "out.jsonl.run"]
    for path in kept:
        text = path.read_text()
        assert key not in text
        assert "document" not in text
        assert path.stat().st_mode & 0o077 == 0
