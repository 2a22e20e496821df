"""No process of a storm outlives it."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import parse
from stormbreak.storm.live import Program, ProgramError, play
from stormbreak.storm.live.programs import name_of, start, stop
from stormbreak.storm.live.scaling import staged

LONG = staged(parse("duration = 1000\n[provider]\nservice = 0.01\n[load]\nrate = 5\n"))
FAMILY = """
import json, signal, subprocess, live_asker
{first}
child = subprocess.Popen(["sleep", "1000"])
open({path!r}, "w").write(str(child.pid))
for line in sys.stdin:
    live_asker.ask(json.loads(line))
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def started(path):
    """Wait until the program has started its child; return the child."""
    while not path.exists() or not path.read_text():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    return int(path.read_text())


async def gone(pid):
    """Wait until a killed process has ended."""
    async with asyncio.timeout(30.0):
        while is_alive(pid):  # noqa: ASYNC110 - it is no child of ours
            await asyncio.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("first", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
async def test_a_cancel_ends_the_program_and_its_children(script, tmp_path, first):
    path = tmp_path / "child"
    program = script(FAMILY.format(first=first, path=str(path)))
    storm = asyncio.create_task(play(LONG, program))
    child = await started(path)
    assert is_alive(child)

    storm.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storm
    await gone(child)


async def test_a_cancel_while_a_program_starts_ends_it(script):
    """A bug on a busy machine: asyncio waited for ever for a process whose pipes were not yet connected."""
    running = []
    program = script("sys.stdin.read()\n")
    starting = asyncio.create_task(start(program, running, 2, os.environ, fed=True))
    await asyncio.sleep(0)
    starting.cancel()
    async with asyncio.timeout(30.0):
        with pytest.raises(asyncio.CancelledError):
            await starting
        await stop(running)
    assert [copy.code for copy in running] == [-signal.SIGTERM]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
async def test_a_program_that_outlives_the_storm_is_ended(script, tmp_path):
    brief = parse("duration = 0.3\n[provider]\nservice = 0\n[load]\nrate = 20\ndeadline = 0.1\n")
    path = tmp_path / "child"
    stays = "\nimport time\ntime.sleep(1000)\n"
    played = await play(staged(brief), script(FAMILY.format(first="", path=str(path)) + stays))

    assert played.exits == (None,)
    await gone(int(path.read_text()))


async def test_a_daemon_outside_the_process_group_does_not_delay_the_end(script):
    """A daemon in its own session is not ours to end, and keeps standard error open."""
    away = script(
        "import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session=True)\nsys.exit('gone')"
    )
    began = time.monotonic()
    with pytest.raises(ProgramError) as caught:
        await play(LONG, away)

    assert caught.value.stderr == "gone\n"
    assert time.monotonic() - began < 50.0


def test_a_program_is_named_after_its_script_or_itself(tmp_path):
    script = tmp_path / "asker.py"
    script.touch()
    assert name_of(["python", "-u", str(script), "--fast"]) == "asker"
    assert name_of(["/usr/bin/env", "x\0y"]) == "env"
    assert name_of(["node", "a" * 5000]) == "node"


def test_an_invalid_program_is_rejected():
    with pytest.raises(ConfigurationError, match="program 'no-such-thing' not found"):
        Program("x", ("no-such-thing",)).check()
    with pytest.raises(ConfigurationError, match="names no program"):
        Program("x", ()).check()
    Program("x", ("sh",)).check()
