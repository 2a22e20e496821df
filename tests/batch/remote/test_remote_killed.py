"""A kill -9 between any two steps of a batch submits nothing twice and loses nothing.

Each case is a child process that kills itself at its n-th point: before a write of the state, a request, a sync of the
journal or a write of the account. Then the same commands run to their end.
"""

import json
import os
import signal
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from batches import provider_process, read, started, wait_until, write
from forking import exit_code_of
from remote_batches import QUICK, batch, listed, rows_for, text_of

from stormbreak.batch.remote import fetch
from stormbreak.batch.store import output_files
from stormbreak.batch.store.provider_batches import BatchFolder
from stormbreak.batch.store.row_journal import RowJournal
from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text

COUNT = 4
URLS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


ACTS = (
    (BatchFolder, "save"),
    (AsyncClient, "send"),
    (RowJournal, "flush"),
    (output_files, "note_account"),
    (fetch, "bill_batch"),
)


class Points:
    """Kills this process at its n-th point."""

    def __init__(self, last):
        self.left = last

    def reached(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, act):
        """Reach a point before the act; for a coroutine function, when it is called."""

        def acting(*args, **given):
            self.reached()
            return act(*args, **given)

        return acting


def is_killed(last, *words):
    """Run the command in a child that is killed at its `last` point. Return whether the child reached it."""

    def command():
        points = Points(last)
        with ExitStack() as patched:
            for owner, name in ACTS:
                act = points.before(getattr(owner, name))
                patched.enter_context(patch.object(owner, name, act))
            batch(*words)
        return True

    ended = exit_code_of(command, seconds=120)
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "quick.toml"
    path.write_text(QUICK)
    with provider_process("--scenario", path) as base_url:
        yield base_url


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stormbreak.batch.remote.submit.SETTLED_AFTER", 0.05)
    return tmp_path


def make_rows(at, url, name):
    """Rows that are unique to this case, so that the provider can count repeated requests."""
    rows = rows_for(url, COUNT)
    for row in rows:
        row["body"]["messages"][0]["content"] += f" of {name}"
    return rows, write(at / f"{name}.jsonl", rows)


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_kill_9_between_any_two_steps_loses_and_repeats_nothing(at, provider, url):
    case, has_more = 0, True
    before = len(listed(provider, url))
    while has_more:
        case += 1
        out = f"out{case}.jsonl"
        rows, source = make_rows(at, url, f"case{case}")
        submit = ["submit", source, "-o", out, "--base-url", provider]
        has_more = is_killed(case, *submit)
        done = batch(*submit)
        assert (done.returncode, done.stderr) == (0, ""), f"point {case}"
        has_more |= is_killed(case, "fetch", out)
        assert batch("fetch", out).returncode == 0, f"point {case}"
        lines = read(at / out)
        counted = Counter(line["custom_id"] for line in lines)
        assert counted == Counter(row["custom_id"] for row in rows), f"point {case}"
        texts = {line["custom_id"]: text_of(line) for line in lines}
        assert texts == {row["custom_id"]: answer_text(row["body"]) for row in rows}
        assert len(listed(provider, url)) == before + case, f"point {case}"
        account = json.loads((at / f"{out}.run").read_text())["account"]
        assert [each["useful"]["attempts"] for each in account["spent"]] == [COUNT], f"point {case}"
    assert case > 8  # acts of `submit`, or of `fetch`


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_kill_9_before_the_response_to_a_creation_creates_no_second_batch(at, url, tmp_path):
    """The provider creates the batch and never responds; the process is killed while it waits."""
    place = "/v1/messages/batches" if url == URLS["anthropic"] else "/v1/batches"
    fault = f'[[faults]]\nkind = "stall_early"\nmatch = "POST {place}?"\nfirst_attempts = 1\n'
    (tmp_path / "stall.toml").write_text(QUICK + fault)
    _, source = make_rows(at, url, "stalled")
    with provider_process("--scenario", tmp_path / "stall.toml") as base_url:
        submit = ["batch", "submit", source, "-o", "out.jsonl", "--base-url", base_url]
        with started(*submit) as process:
            wait_until(lambda: listed(base_url, url), "the batch")
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert (
            json.loads((at / "out.jsonl.batches" / "0001.json").read_text())["step"] == "creating"
        )
        assert batch(*submit[1:]).returncode == 0
        assert batch("fetch", "out.jsonl").returncode == 0
        assert len(listed(base_url, url)) == 1
    assert len(read(at / "out.jsonl")) == COUNT
