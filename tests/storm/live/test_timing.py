"""Time in a live storm: the deadlines of a program, and the delay of the storm itself."""

import json
import time

from stormbreak.provider.scenario_file import parse
from stormbreak.storm.live import play, run
from stormbreak.storm.live.scaling import staged

SCENARIO = """
name = "short"
duration = 2
[provider]
service = 0.02
[load]
rate = 10
arrivals = "even"
deadline = 4.0
timeout = 1.0
"""


async def test_lines_have_real_seconds(script, tmp_path):
    """A program runs on the real clock, and not on that of the scenario."""
    log = tmp_path / "log"
    program = script(
        f"import json, live_asker\nfor line in sys.stdin:\n    open({str(log)!r}, 'a').write(line)\n"
        "    live_asker.ask({**json.loads(line), 'timeout': 20})\n"
    )
    await play(staged(parse(SCENARIO)), program, speed=2.0)
    lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert lines[0]["call"] == 0
    assert {(line["deadline"], line["timeout"]) for line in lines} == {(2.0, 0.5)}


async def test_a_program_that_lost_its_first_call_gets_it_again(script, monkeypatch):
    monkeypatch.setattr(run, "_SLOW_START", 0.1)
    program = script(
        "import json, live_asker\nlost = sys.stdin.readline()\nfor line in sys.stdin:\n"
        "    live_asker.ask({**json.loads(line), 'timeout': 20})\n"
    )
    assert (await play(staged(parse(SCENARIO)), program, speed=4.0)).exits == (0,)


async def test_the_latest_call_is_reported(asker):
    """The machine is busy for a while."""
    held = []

    def busy_once(moment):
        if moment.now > 0.3 and not held:
            held.append(moment)
            time.sleep(0.4)

    played = await play(staged(parse(SCENARIO)), asker(), progress=busy_once)

    assert 0.25 < played.latest < 30.0
