"""The promises of `batch run` at size: real processes, real sockets, real kills."""

import json
import random
import time
from contextlib import contextmanager

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_rows,
    line_size,
    provider_process,
    read,
    run,
    scenario,
    size_of,
    started,
    stats,
    wait_until,
    write,
)
from failing import failing_scenario, ids, named, rows_that_fail

STORM = (
    {"kind": "429", "share": 0.30, "retry_after": 1},
    {"kind": "503", "share": 0.05},
    {"kind": "reset", "share": 0.01},
    {"kind": "cut_body", "share": 0.01},
)


def patience_for(count):
    """Seconds. The last rows wait longer than most."""
    return 30 + 60 * count / 2_000


@contextmanager
def provider(path, text, seed=0):
    """Run the provider in its own process; yield its base URL."""
    path.write_text(text)
    with provider_process("--scenario", path, "--seed", seed) as url:
        yield url


# ------------------------------------------------------------ a third of the responses fails


@pytest.mark.parametrize(
    ("count", "service", "seed"),
    [
        (300, 0.1, 0),
        pytest.param(2_000, 0.1, 0, marks=pytest.mark.prove),
        pytest.param(2_000, 0.2, 1, marks=pytest.mark.prove),
        pytest.param(2_000, 0.0, 2, marks=pytest.mark.prove),
        pytest.param(10_000, 0.05, 3, marks=pytest.mark.prove),
    ],
)
def test_a_storm_loses_no_row_and_no_retry_comes_early(tmp_path, count, service, seed):
    rows = chat_rows(count)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    storm = scenario(*STORM, service=service, variation=0.3 if service else 0.0)
    with provider(tmp_path / "storm.toml", storm, seed) as url:
        began = time.monotonic()
        args = ("batch", "run", source, "--output", output, "--base-url", url)
        done = run(*args, "--concurrency", 100, "--json")
        took = time.monotonic() - began
        seen = stats(url)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    print(f"{count:,} rows in {took:.1f} s, {summary['attempts']:,} attempts")
    assert took < patience_for(count)
    assert_answered(rows, output)
    assert seen["early"] == 0, seen["early_examples"]
    assert seen["faults"]["cut_body"] > 0
    assert seen["arrivals"] == summary["attempts"]
    assert seen["keys"]["answered_twice"] == 0


# ------------------------------------------------------------ kill -9


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (2_000, 1),
        *(pytest.param(6_000, seed, marks=pytest.mark.prove) for seed in (1, 2, 3, 4, 5)),
        pytest.param(30_000, 6, marks=pytest.mark.prove),
    ],
)
def test_kill_9_of_a_run_at_three_moments_loses_nothing(tmp_path, count, seed):
    width = 100
    rows = chat_rows(count)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.02, 0.95) for _ in range(3))
    print(f"seed {seed}: killed at {', '.join(f'{moment:.1%}' for moment in moments)}")
    with provider(tmp_path / "calm.toml", scenario(service=0.05, variation=0.3)) as url:
        args = ("batch", "run", source, "--output", output, "--base-url", url)
        args += ("--concurrency", width, "--quiet")
        for moment in moments:
            before = output.read_bytes() if output.exists() else b""
            with started(*args) as process:
                wait_until(
                    lambda: size_of(output) >= moment * count * line_size(output),  # noqa: B023
                    f"{moment:.1%} of the rows",
                )
                process.kill()
                assert process.wait() == -9
            whole = before[: before.rfind(b"\n") + 1]
            assert output.read_bytes().startswith(whole)
        with started(*args) as process:
            assert process.wait(PATIENCE) == 0, process.stderr.read()
        keys = stats(url)["keys"]
    assert_answered(rows, output)
    paid_twice = keys["answers"] - count
    print(f"answers paid twice: {paid_twice}")
    assert keys["answered"] == count
    assert paid_twice <= 3 * width


@pytest.mark.parametrize(
    ("count", "seed"),
    [(500, 1), *(pytest.param(10_000, seed, marks=pytest.mark.prove) for seed in (2, 3, 4))],
)
def test_kill_9_of_a_retry_at_three_moments_loses_nothing(tmp_path, count, seed):
    """Half of the rows have failed for good; a twentieth of these will fail once more."""
    width, chance = 50, random.Random(seed)
    bad, worse = range(0, count, 2), range(0, count, 40)
    rows = rows_that_fail(count, _400=bad)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    failed = tmp_path / "out.failed.jsonl"
    with provider(tmp_path / "failing.toml", failing_scenario()) as url:
        assert run("batch", "run", source, "--output", output, "--base-url", url).returncode == 1
    assert named(read(failed)) == ids(bad)
    still_bad = [{"kind": "404", "match": f"document {number} (meets"} for number in worse]
    moments = sorted(chance.uniform(0.05, 0.9) for _ in range(3))
    print(f"seed {seed}: killed at {', '.join(f'{moment:.1%}' for moment in moments)}")
    with provider(tmp_path / "calm.toml", scenario(*still_bad, service=0.05, variation=0.3)) as url:
        args = ("batch", "retry", output, "--base-url", url, "--concurrency", width, "--quiet")
        for moment in moments:
            before = output.read_bytes()
            goal = (0.5 + moment / 2) * count * line_size(output)
            with started(*args) as process:
                wait_until(lambda: size_of(output) >= goal, f"{moment:.1%} of the rows")  # noqa: B023
                process.kill()
                assert process.wait() == -9
            assert output.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
            unanswered = set(ids(range(count))) - named(whole_lines(output))
            assert named(whole_lines(failed)) >= unanswered
        arrived = stats(url)["arrivals"]
        again = ("batch", "run", source, "--output", output, "--base-url", url)
        assert run(*again).returncode == 1  # a resume sends no row that failed for good
        assert (stats(url)["arrivals"], named(read(failed))) == (arrived, unanswered)
        with started(*args) as process:
            assert process.wait(PATIENCE) == 1, process.stderr.read()
        keys = stats(url)["keys"]
    worse_ids = ids(worse)
    assert_answered([row for row in rows if row["custom_id"] not in worse_ids], output)
    assert {(it["custom_id"], it["error"]["verdict"]) for it in read(failed)} == {
        (name, "not_found") for name in worse_ids
    }
    assert len(read(failed)) == len(worse)
    paid_twice = keys["answers"] - (len(bad) - len(worse))
    print(f"answers paid twice: {paid_twice}")
    assert keys["answered"] == len(bad) - len(worse)
    assert paid_twice <= 3 * width


def whole_lines(path):
    """The complete lines of a file after a kill."""
    whole = path.read_bytes()
    return [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


# ------------------------------------------------------------ power cut


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(s, marks=pytest.mark.prove) for s in range(3, 30))]
)
def test_a_power_cut_loses_no_durable_line(tmp_path, stormbreak_provider, seed):
    """Files end anywhere, with or without a tail of zeros, as after a power cut."""
    chance = random.Random(seed)
    rows = chat_rows(200)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    failed = tmp_path / "out.failed.jsonl"
    some_fail = stormbreak_provider(scenario({"kind": "400", "share": 0.2}), seed=seed)
    args = ("batch", "run", source, "--output", output, "--quiet", "--base-url")
    assert run(*args, some_fail.base_url).returncode == 1
    kept = {path: cut(path, chance) for path in (output, failed)}
    calm = stormbreak_provider(scenario())
    done = run(*args, calm.base_url, "--json")
    assert done.returncode == 1, done.stderr
    for path, lines in kept.items():
        assert read(path)[: len(lines)] == lines
    refused = {line["custom_id"] for line in kept[failed]}
    assert_answered([row for row in rows if row["custom_id"] not in refused], output)
    assert {line["custom_id"] for line in read(failed)} == refused
    assert calm.stats()["arrivals"] == 200 - sum(map(len, kept.values()))


def cut(path, chance):
    """Cut a file off somewhere; return the lines that are still whole."""
    whole = path.read_bytes()
    left = whole[: chance.randrange(len(whole) // 4, len(whole))]
    path.write_bytes(left + b"\0" * chance.choice([0, 0, 700]))
    lines = [json.loads(line) for line in left[: left.rfind(b"\n") + 1].splitlines()]
    torn = left[left.rfind(b"\n") + 1 :]
    if torn.endswith(b"}}") and json.loads(torn):  # only its newline is missing
        lines.append(json.loads(torn))
    return lines
