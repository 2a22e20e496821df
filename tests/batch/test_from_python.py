"""`stormbreak.batch.run` and `arun`: batches from programs and notebooks."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from threading import current_thread

import pytest
from batches import PATIENCE, chat_rows, environment, read, scenario, size_of, wait_until, write

from stormbreak import ConfigurationError, Policy
from stormbreak.batch import arun, failed_rows, read_answers, run
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.cli.main import main
from stormbreak.testing import answer_text
from stormbreak.types import Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

PROMPTS = [{"prompt": f"document {number}", "max_tokens": 50} for number in range(40)]
FLAKY = scenario({"kind": "500", "share": 0.3})
REFUSES = scenario({"kind": "401"})
SLOW = scenario(service=0.8)  # leaves time to stop the run on a busy machine


@pytest.fixture
def place(stormbreak_provider):
    """Address and model of a calm provider."""
    return {"base_url": stormbreak_provider("calm").base_url, "model": "storm-1"}


def answered_and_kept(output, provider, rows=PROMPTS):
    """Return the number of answers of a stopped run: one for each request, and fewer than rows."""
    asked, kept = provider.stats()["keys"], len(read(output))
    assert asked["asked"] == asked["answered"] == kept
    assert 0 < kept < len(rows)
    return kept


def test_run_answers_rows_and_reads_them_back(output, place):
    summary = run(PROMPTS, output=output, **place)
    assert (summary.end, summary.complete, summary.successful) == ("finished", True, 40)
    answered = {each.custom_id: each for each in summary.answers()}
    for number, row in enumerate(PROMPTS, 1):
        asked = {"model": "storm-1", "messages": [{"role": "user", "content": row["prompt"]}]}
        one = answered[f"row-{number}"]
        assert one.text == answer_text(asked | {"max_tokens": 50})
        assert one.usage.output_tokens > 0
        assert one.json()["choices"][0]["message"]["content"] == one.text
        assert one.text not in repr(one)
    assert list(summary.failures()) == []
    assert [each.custom_id for each in read_answers(output)] == list(answered)


def test_the_program_may_change_its_directory(tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", chat_rows(40))
    summary = run("in.jsonl", output="out.jsonl", on_progress=lambda _: os.chdir("/"), **place)
    assert len([*summary.answers()]) == len(read(tmp_path / "out.jsonl")) == 40


def test_run_works_without_standard_streams(output, place):
    """The first opened files get the numbers of the streams: the lock was rejected as standard output."""
    code = f"from stormbreak.batch import run; run({PROMPTS[:2]!r}, output={str(output)!r}, **{place!r})"
    shell = 'exec "$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, code], check=False, timeout=PATIENCE)
    assert done.returncode == 0
    assert len(read(output)) == 2


def test_rows_are_kept_in_a_private_file_that_batch_retry_reads(output, place, capsys):
    run(iter(PROMPTS), output=output, **place)
    kept = BatchPaths.of(output).input
    assert [json.loads(line) for line in kept.read_text().splitlines()] == PROMPTS
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert main(["batch", "retry", str(output), "--dry-run"]) == 0
    assert "would send 0 of 0 failed rows" in capsys.readouterr().out


def test_the_same_call_resumes_and_a_call_with_other_rows_is_rejected(output, place):
    run(PROMPTS, output=output, **place)
    again = run(PROMPTS, output=output, ordered=True, **place)
    assert (again.attempts, again.complete) == (0, True)
    assert [each.custom_id for each in again.answers()] == [f"row-{n}" for n in range(1, 41)]
    with pytest.raises(
        ConfigurationError, match=r"a run of other rows or another prompt \(40 rows; these are 39\)"
    ):
        run(PROMPTS[1:], output=output, **place)
    assert len(read(BatchPaths.of(output).input)) == 40


def test_an_input_file_is_not_copied(tmp_path, output, place):
    source = write(tmp_path / "rows.jsonl", chat_rows(5))
    assert run(str(source), output=str(output), **place).successful == 5
    assert not BatchPaths.of(output).input.exists()


def test_an_existing_foreign_input_file_is_not_overwritten(output, place):
    foreign = BatchPaths.of(output).input
    foreign.write_text("precious\n")
    with pytest.raises(ConfigurationError, match=r"out\.input\.jsonl: exists, and no"):
        run(PROMPTS, output=output, **place)
    assert foreign.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": [3]}, "row 1 must be a dict, got int"),
        (
            {"rows": [{"prompt": object()}]},
            "row 1 cannot be written as JSON: prompt is of type object",
        ),
        (
            {"rows": [{"prompt": "x"}, {"prompt": b"x"}]},
            "row 2 cannot be written as JSON: prompt is of",
        ),
        ({"rows": [{"prompt": "x", "temperature": float("nan")}]}, "temperature is nan"),
        ({"rows": [{"prompt": 3}]}, r"out\.input\.jsonl:1: prompt must be a string"),
        ({"rows": []}, "the input holds no rows"),
        ({"output": None}, "output must be a path: answers are kept there"),
        ({"output": "none/out.jsonl"}, r"none/out\.jsonl: "),
        ({"timeout": -3}, "timeout must be a positive, finite number, got -3"),
        ({"rpm": float("nan")}, "rpm must be a positive, finite number, got nan"),
        ({"concurrency": "many"}, "concurrency must be auto or a positive whole number"),
        (
            {"max_output_tokens": True},
            "max_output_tokens must be a positive whole number, got True",
        ),
        ({"policy": 7}, "policy must be a Policy, a preset or a file, got 7"),
        ({"provider": "openai"}, "base_url and provider: give one of them, not both"),
        ({"fallback_api_key_env": "X"}, "fallback_api_key_env: give fallback_base_url too"),
    ],
)
def test_invalid_arguments_raise_and_leave_no_rows_behind(output, place, given, message):
    options = {"output": output} | place | given
    with pytest.raises(ConfigurationError, match=message):
        run(options.pop("rows", PROMPTS), **options)
    assert not BatchPaths.of(output).input.exists()


def test_an_unknown_option_raises_type_error(output, place):
    with pytest.raises(TypeError, match="concurency"):
        run(PROMPTS, output=output, **place, concurency=3)


def test_an_exception_of_the_rows_iterator_is_raised_unchanged(output, place):
    def rows():
        yield PROMPTS[0]
        raise FileNotFoundError("the table is gone")

    with pytest.raises(FileNotFoundError, match="the table is gone"):
        run(rows(), output=output, **place)


def test_a_locked_output_is_rejected_before_the_rows_are_read(output, place):
    with locked(BatchPaths.of(output)), pytest.raises(ConfigurationError, match="another run is"):
        run((pytest.fail("was read") for _ in PROMPTS), output=output, **place)


def test_run_raises_when_no_server_answers(output):
    with pytest.raises(ConfigurationError, match="nothing answers there: connection refused"):
        run(PROMPTS, output=output, base_url="http://127.0.0.1:9", model="m", connect_grace=0.1)


def test_failures_are_read_back_and_retried_on_request(output, stormbreak_provider):
    provider = stormbreak_provider(REFUSES)
    options = {"output": output, "base_url": provider.base_url, "model": "storm-1"}
    summary = run(PROMPTS[:3], **options)
    failures = list(summary.failures())
    assert not summary.complete
    assert {each.verdict for each in failures} == {"auth"}
    assert all(b"error" in each.raw for each in failures)
    calm = options | {"base_url": stormbreak_provider("calm").base_url}
    assert run(PROMPTS[:3], **calm).attempts == 0
    mended = run(PROMPTS[:3], **calm, choice=failed_rows([Verdict.AUTH]))
    assert (mended.recovered, mended.complete) == (3, True)


def test_run_accepts_a_policy_and_reports_progress_in_another_thread(output, stormbreak_provider):
    seen = []
    summary = run(
        PROMPTS,
        output=output,
        base_url=stormbreak_provider(FLAKY, seed=3).base_url,
        model="storm-1",
        policy=Policy(),
        on_progress=lambda view: seen.append((view.done, view.total, current_thread())),
    )
    assert summary.complete
    assert summary.retries > 0
    assert seen[-1][:2] == (40, 40)
    assert current_thread() not in {thread for _, _, thread in seen}


def test_run_works_inside_a_running_event_loop(output, tmp_path, place):
    async def both():
        blocked = run(PROMPTS[:5], output=output, **place)
        return blocked, await arun(PROMPTS, output=tmp_path / "other.jsonl", **place)

    blocked, awaited = asyncio.run(both())
    assert (blocked.complete, awaited.complete) == (True, True)


def test_a_cancelled_arun_keeps_the_answers_of_sent_rows(output, stormbreak_provider):
    provider = stormbreak_provider(SLOW)
    options = {
        "output": output, "base_url": provider.base_url, "model": "storm-1", "concurrency": 5,
    }  # fmt: skip

    async def cancelled():
        sent = asyncio.Event()
        loop = asyncio.get_running_loop()

        def look(view):
            if view.done:
                loop.call_soon_threadsafe(sent.set)

        task = asyncio.create_task(arun(PROMPTS, **options, on_progress=look))
        await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    before = answered_and_kept(output, provider)
    rest = run(PROMPTS, **options | {"concurrency": 40})
    assert (rest.complete, rest.attempts) == (True, 40 - before)


def test_arun_cancelled_while_it_reads_rows_sends_nothing(output, place):
    many = [{"prompt": f"document {number}"} for number in range(100_000)]

    async def cancelled():
        task = asyncio.create_task(arun(many, output=output, **place))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not output.exists()
    assert not BatchPaths.of(output).input.exists()


PROGRAM = """
import signal, sys
from stormbreak.batch import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background may ignore it
rows = [{"prompt": f"document {number}", "max_tokens": 50} for number in range(400)]
try:
    run(rows, output=sys.argv[1], base_url=sys.argv[2], model="storm-1", concurrency=5)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_keeps_the_answers_of_sent_rows(output, stormbreak_provider):
    rows = [{"prompt": f"document {number}", "max_tokens": 50} for number in range(400)]
    provider = stormbreak_provider(SLOW)
    url = provider.base_url
    words = [sys.executable, "-W", "error", "-c", PROGRAM, output, url]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as program:
        wait_until(lambda: size_of(output), "an answer")
        os.kill(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE)
    assert (program.returncode, out, err) == (0, "interrupted\n", "")
    before = answered_and_kept(output, provider, rows)
    rest = run(rows, output=output, base_url=url, model="storm-1", concurrency=400)
    assert (rest.complete, rest.attempts) == (True, 400 - before)
