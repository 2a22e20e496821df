"""What a batch costs in bad luck and in an outage, on real sockets, beside the usual loop with full jitter in the same trouble."""

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
)  # one row meets bad luck ten times in a row, and seven do: the most of the first 2,000 seeds
OUTAGES = range(5)
AS_LONG = 1.3  # times the loop's time, at most
KILLED = (0.3, 20.0)  # seconds within which a batch is killed, at any moment


def wide(source, output, url):
    return ours(source, output, url, "--concurrency", WIDTH)


PROGRAMS = {"loop": loop, "loop again": loop, "as it comes": ours, "64": wide, "killed": wide}


@pytest.fixture(scope="module", params=[0, 4], ids=["alone", "beside four busy processes"])
def times(request, tmp_path_factory):
    """For each seed: the seconds of the loop (mean of two), and those of our runs as multiples of that."""
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
def test_99_of_100_rows_are_answered_about_as_soon_as_by_a_plain_loop(times, program):
    """Or all that ten sends can answer: with seed 2 that is 493 of 500 rows."""
    ratios = [each[program] for each in times]
    assert [ratio for ratio in ratios if ratio > AS_LONG] == []


@pytest.mark.parametrize("more", [(), ("--concurrency", WIDTH)], ids=["as it comes", "64"])
@pytest.mark.parametrize("seed", UNLUCKY)
def test_only_the_rows_whose_ten_sends_all_meet_bad_luck_are_not_answered(tmp_path, seed, more):
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
def test_little_is_sent_into_an_outage_and_its_end_is_found_at_once(tmp_path, calm, seed):
    outage = asyncio.run(outlived(tmp_path, calm=calm, seed=seed))

    assert outage.sent <= 60
    assert outage.answered_after <= 2.0
