"""What a batch costs in bad luck and in an outage, on real sockets, beside the usual loop with full jitter in the same trouble."""

import asyncio
import random

import pytest
from bad_luck import WIDTH, busy_beside, loop, ours, outlived, race

pytestmark = pytest.mark.prove

SEEDS = range(20)
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
    ratios = [each[program] for each in times]
    assert [ratio for ratio in ratios if ratio > AS_LONG] == []


@pytest.mark.parametrize("seed", OUTAGES)
@pytest.mark.parametrize("calm", [0.0, 3.0], ids=["from the start", "after three seconds"])
def test_little_is_sent_into_an_outage_and_its_end_is_found_at_once(tmp_path, calm, seed):
    outage = asyncio.run(outlived(tmp_path, calm=calm, seed=seed))

    assert outage.sent <= 60
    assert outage.answered_after <= 2.0
