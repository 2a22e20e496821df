"""A batch with random errors and in an outage on real sockets, beside a plain loop with full jitter in the same faults."""

import asyncio
import json
import random
import subprocess
from urllib.request import urlopen

import pytest
from bad_luck import AT_MOST, LUCK, ROWS, WIDTH, busy_beside, loop, ours, outlived, race, unlucky
from batches import assert_answered, chat_rows, environment, provider_process, read, write

from stormbreak.core.row_schedule import ATTEMPTS

pytestmark = pytest.mark.prove

SEEDS = range(20)
UNLUCKY = (
    0,
    2,
)  # one row, and seven rows, fail ten times in a row: the maximum of the first 2,000 seeds
OUTAGES = range(5)
AS_LONG = 1.3  # maximum, relative to the time of the loop
KILLED = (0.3, 20.0)  # seconds; a batch is killed at a random time in this range


def wide(source, output, url):
    return ours(source, output, url, "--concurrency", WIDTH)


PROGRAMS = {"loop": loop, "loop again": loop, "as it comes": ours, "64": wide, "killed": wide}


@pytest.fixture(scope="module", params=[0, 4], ids=["alone", "beside four busy processes"])
def times(request, tmp_path_factory):
    """For each seed, the times of the batch runs relative to the loop (mean of two)."""
    found = []
    with busy_beside(request.param):
        for seed in SEEDS:
            chance = random.Random(seed)
            took = race(
                tmp_path_factory.mktemp(f"seed-{seed}"),
                seed,
                PROGRAMS,
                kill_after={"killed": chance.uniform(*KILLED)},
            )
            base = (took.pop("loop") + took.pop("loop again")) / 2
            found.append({name: seconds / base for name, seconds in took.items()})
            print(
                f"seed {seed}: loop {base:.1f} s",
                *(f"{name} {ratio:.2f}" for name, ratio in found[-1].items()),
            )
    return found


@pytest.mark.parametrize("program", ["as it comes", "64", "killed"])
def test_a_batch_answers_99_percent_about_as_fast_as_a_plain_loop(times, program):
    """Or all rows that ten attempts can answer: 493 of 500 with seed 2."""
    ratios = [each[program] for each in times]
    assert [ratio for ratio in ratios if ratio > AS_LONG] == []


@pytest.mark.parametrize("more", [(), ("--concurrency", WIDTH)], ids=["as it comes", "64"])
@pytest.mark.parametrize("seed", UNLUCKY)
def test_only_rows_whose_ten_attempts_all_fail_stay_unanswered(tmp_path, seed, more):
    rows, luck, output = chat_rows(ROWS), tmp_path / "luck.toml", tmp_path / "out.jsonl"
    luck.write_text(LUCK)
    source = write(tmp_path / "in.jsonl", rows)
    with provider_process("--scenario", luck, "--seed", seed) as url:
        words = [str(word) for word in ours(source, output, url, *more)]
        subprocess.run(words, check=False, env=environment(), timeout=AT_MOST)
        with urlopen(f"{url.removesuffix('/v1')}/_provider/stats") as stats:
            seen = json.load(stats)

    failed = {line["custom_id"]: line for line in read(output.with_suffix(".failed.jsonl"))}
    assert set(failed) == unlucky(rows, seed)
    assert {line["error"]["attempts"] for line in failed.values()} <= {ATTEMPTS}
    assert_answered([row for row in rows if row["custom_id"] not in failed], output)
    assert seen["keys"]["max_attempts"] == ATTEMPTS


@pytest.mark.parametrize("seed", OUTAGES)
@pytest.mark.parametrize("calm", [0.0, 3.0], ids=["from the start", "after three seconds"])
def test_few_requests_are_sent_in_an_outage_and_its_end_is_found_soon(tmp_path, calm, seed):
    outage = asyncio.run(outlived(tmp_path, calm=calm, seed=seed))

    assert outage.sent <= 60
    assert outage.answered_after <= 2.0
