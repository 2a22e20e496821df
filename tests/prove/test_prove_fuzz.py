"""Ten minutes of broken responses over real sockets, on a loop and on threads: every call ends correctly, in time, and leaks nothing.

`make prove FUZZ=60` shortens it. `fuzz_rig` has the checks of each call, `fuzz_truth` the responses that count as answers.
"""

import gzip
import os
import time
from itertools import count

import pytest
from fuzz_answers import CHAT, Meant, framed
from fuzz_rig import DEADLINE, Case, Footprint
from fuzzing import fuzz, rigged

pytestmark = pytest.mark.prove

SECONDS = float(os.environ.get("STORMBREAK_FUZZ_SECONDS", "600"))
ROUND = 1000  # cases of one seed
GROWTH = 48 * 2**20  # maximum growth of a process after the first round, in bytes


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
def test_broken_responses_neither_hang_nor_leak_nor_count_as_answers(blocks, capsys):
    first, before = int(time.time()), None
    until = time.monotonic() + SECONDS / 2
    with rigged(blocks=blocks) as (runner, rig):
        for number in count(first):
            fuzz(runner, rig, number=number, examples=ROUND)
            runner.run(rig.end_block())
            now = Footprint()
            before = before or now
            assert before.files == now.files
            assert before.rss + GROWTH >= now.rss
            if time.monotonic() > until:
                break
    with capsys.disabled():
        grown = (now.rss - before.rss) / 2**20
        verdicts = dict(rig.verdicts.most_common())
        print(f"\n{rig.verdicts.total()} calls, seeds {first} to {number}: {verdicts}")
        print(f"the slowest took {rig.slowest:.2f} s; memory grew by {grown:.1f} MiB")


@pytest.mark.parametrize("way", ["request", "events", "answer", "raw"])
def test_a_decompression_bomb_is_a_broken_answer(way):
    """Half a gigabyte compressed to half a megabyte is never completely in memory."""
    meant = Meant(200, b"", None)
    head, _, _ = framed(meant, b"", [], framing="close", coding="gzip").partition(b"\r\n\r\n")
    sent = head + b"\r\n\r\n" + gzip.compress(b" " * 2**29)
    bomb = Case(CHAT, way, meant, sent, sizes=(65536,), end="close")
    before, began = Footprint(), time.perf_counter()
    with rigged() as (runner, rig):
        for _ in range(5):
            runner.run(rig.run(bomb))
    took, now = time.perf_counter() - began, Footprint()

    assert rig.verdicts == {"broken": 5}
    assert took < 5 * DEADLINE
    assert before.files >= now.files
    assert before.rss + 3 * GROWTH >= now.rss
