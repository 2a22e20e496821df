"""The loop of those who block: it hands over, hands back, lets go, and ends with the process."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time

import pytest
from interrupts import interrupted

from stormbreak.drivers import background_loop as background_module
from stormbreak.drivers.background_loop import Background

WHO = contextvars.ContextVar("WHO", default="nobody")


@pytest.fixture
def background():
    background = Background()
    yield background
    background.stop()


async def who():
    await asyncio.sleep(0)
    return WHO.get(), threading.current_thread().name


def test_it_runs_elsewhere_in_the_context_of_the_caller(background):
    token = WHO.set("somebody")
    assert background.run(who()) == ("somebody", "stormbreak")
    WHO.reset(token)
    assert background.run(who()) == ("nobody", "stormbreak")


def test_what_is_raised_there_is_raised_here(background):
    error = LookupError("gone")

    async def fails():
        raise error

    with pytest.raises(LookupError) as raised:
        background.run(fails())
    assert raised.value is error


def test_all_share_one_loop(background):
    loops = set()

    async def here():
        loops.add(asyncio.get_running_loop())

    threads = [
        threading.Thread(target=lambda: [background.run(here()) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loops == {background.loop()}


def test_an_interrupt_cancels_and_waits_until_all_is_let_go(background):
    steps, asleep = [], threading.Event()

    async def slow():
        try:
            asleep.set()
            await asyncio.sleep(30)
        finally:
            steps.append("cancelled")
            await asyncio.sleep(0.05)
            steps.append("let go")

    with interrupted(once=asleep.is_set), pytest.raises(KeyboardInterrupt):
        background.run(slow())
    assert steps == ["cancelled", "let go"]
    assert background.run(who())[1] == "stormbreak"


def test_it_may_not_wait_for_itself(background):
    async def again():
        background.run(who())

    with pytest.raises(RuntimeError, match="may not wait for it"):
        background.run(again())


def test_who_waits_when_it_ends_is_told_and_the_next_use_starts_another(background):
    first, told = background.loop(), []

    def waits():
        try:
            background.run(asyncio.sleep(30))
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=waits)
    thread.start()
    while not background.run(busy()):
        time.sleep(0.001)
    background.stop()
    thread.join()

    assert told == ["the background loop has ended, and the call with it"]
    assert first.is_closed()
    assert background.run(who())[1] == "stormbreak"
    assert background.loop() is not first


async def busy():
    return len(asyncio.all_tasks()) > 1


ENDS = """
import asyncio, threading
from stormbreak.drivers.background_loop import BACKGROUND

async def cleans():
    try:
        await asyncio.sleep(30)
    finally:
        print("cleaned")

def waits():
    try:
        BACKGROUND.run(cleans())
    except RuntimeError:
        print("told")

BACKGROUND.run(asyncio.sleep(0))
threading.Thread(target=waits, daemon=True).start()
while not BACKGROUND.run(asyncio.sleep(0, len(threading.enumerate()))) == 3:
    pass
BACKGROUND.run(asyncio.sleep(0.05))
"""


def test_it_ends_with_the_process_in_good_order():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDS],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "cleaned"


def test_a_thread_that_cannot_be_started_fails_one_call_and_leaves_no_loop(background, monkeypatch):
    made = []

    def new_loop():
        made.append(asyncio.new_event_loop())
        return made[-1]

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(background_module, "_new_loop", new_loop)
    with monkeypatch.context() as none_left:
        none_left.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            background.run(who())
    assert made[0].is_closed()

    got = []
    waiting = threading.Thread(target=lambda: got.append(background.run(who())), daemon=True)
    waiting.start()
    waiting.join(10.0)
    assert got == [("nobody", "stormbreak")]
