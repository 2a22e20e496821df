"""A storm on real sockets against real programs: the measures."""

import asyncio
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario_file import parse
from stormbreak.provider.server import ProviderServer
from stormbreak.storm.live import Program, ProgramError, play, programs, run
from stormbreak.storm.live.scaling import staged

SHORT = """
name = "short"
duration = 0.98
[provider]
slots = 20
service = 0.05
variation = 0
[load]
rate = 30
arrivals = "even"
deadline = 20.0
timeout = 20.0
"""
CLIENTS = Path(__file__).parents[3] / "bench" / "live"


def short(more="", *, copies=1, **changes):
    text = SHORT
    for name, value in changes.items():
        line = next(line for line in SHORT.splitlines() if line.startswith(f"{name} ="))
        text = text.replace(line, f"{name} = {value}")
    return staged(parse(text + more), copies=copies)


async def test_every_call_is_handed_over_on_time_and_answered(asker):
    moments = []
    played = await play(short(), asker(), progress=moments.append)
    measures = played.result.measures

    assert (played.result.scenario, played.result.policy) == ("short", "asker")
    assert (measures.calls, measures.success, measures.amplification) == (29, 1.0, 1.0)
    assert (measures.shed, measures.wasted, measures.recovery) == (0, 0.0, 0.0)
    assert 0.05 <= measures.p50 < 30.0
    assert measures.added_wait_p99 < 30.0
    assert 0.9 < measures.goodput <= 1.1
    assert sum(played.result.series.calls) == sum(played.result.series.attempts) == 29
    assert (played.exits, played.unmatched_requests) == ((0,), 0)
    assert played.latest < 30.0
    assert moments[-1].answers == moments[-1].calls == 29
    assert moments[0].until == 0.98


async def test_the_provider_observes_retries(asker):
    down = '[[faults]]\nkind = "503"\nfirst_attempts = 2\nrespond_after = 0\n'
    played = await play(short(down), asker(3))

    assert (played.result.measures.success, played.result.measures.amplification) == (1.0, 3.0)

    measures = (await play(short(down), asker(2))).result.measures
    assert (measures.success, measures.amplification, measures.p50) == (0.0, 2.0, None)


async def test_work_for_a_client_that_left_counts_as_wasted(script, monkeypatch):
    """The clock of the provider jumps to the end of the work when all clients have left."""
    leaves = script(
        "import json, threading, http.client, live_asker\n"
        "class Leaving(http.client.HTTPConnection):\n"
        "    def getresponse(self):\n"
        "        raise OSError\n"
        "live_asker.ask(json.loads(sys.stdin.readline()))\n"
        "http.client.HTTPConnection = Leaving\n"
        "for line in sys.stdin:\n"
        "    threading.Thread(target=live_asker.ask, args=[json.loads(line)]).start()\n"
    )
    lost, clock = ProviderServer.lost, time.monotonic

    def lost_and_late(self, connection):
        lost(self, connection)
        counts = self.stats()
        if counts["arrivals"] == 29 and not counts["connections"]["open"]:
            monkeypatch.setattr(time, "monotonic", lambda: clock() + 600.0)

    monkeypatch.setattr(ProviderServer, "lost", lost_and_late)
    measures = (await play(short(service=600.0, slots=40), leaves)).result.measures

    assert (measures.success, measures.amplification, measures.shed) == (0.0, 1.0, 0)
    assert measures.wasted > 0.9


async def test_an_answer_after_the_deadline_does_not_count(asker):
    measures = (await play(short(deadline=0.2, service=0.4), asker())).result.measures

    assert (measures.success, measures.amplification) == (0.0, 1.0)


async def test_copies_share_the_calls(script, tmp_path):
    counting = script(
        f"import os, live_asker, json, threading\nnumber = 0\nfor line in sys.stdin:\n"
        "    threading.Thread(target=live_asker.ask, args=[json.loads(line)]).start()\n"
        "    number += 1\n"
        f"open(os.path.join({str(tmp_path)!r}, f'{{os.getpid()}}.count'), 'w').write(str(number))\n"
    )
    played = await play(short(copies=3), counting, copies=3)
    counts = [int(path.read_text()) for path in tmp_path.glob("*.count")]

    assert played.exits == (0, 0, 0)
    assert len(counts) == 3
    assert sum(counts) == 3 + 29  # one per copy before the storm
    assert min(counts) > 1
    assert played.result.measures.success == 1.0


async def test_a_program_that_skips_lines_sheds_those_calls(script):
    half = script(
        "import live_asker, json, threading\nfor line in sys.stdin:\n    call = json.loads(line)\n"
        "    if call['call'] % 2 == 0:\n"
        "        threading.Timer(0.2, live_asker.ask, [call]).start()\n"
    )
    measures = (await play(short(), half)).result.measures

    assert (measures.calls, measures.shed) == (29, 15)
    assert measures.attempts_per_sent_call == 1.0
    assert 0.2 <= measures.added_wait_p50 <= measures.added_wait_p99 < 30.0


async def test_the_storm_begins_before_its_first_call(asker):
    late = short("bursts = [{ at = 0.5, calls = 1 }]\n", rate=0)
    measures = (await play(late, asker())).result.measures

    assert (measures.calls, measures.success) == (1, 1.0)
    assert 0.05 <= measures.p50 < 30.0


async def test_a_program_may_bring_its_own_traffic(script):
    own = script(
        "import live_asker, time\nfor number in range(10):\n"
        "    live_asker.ask({'call': 1, 'prompt': f'p {number % 5}', 'model': 'm', 'timeout': 5})\n"
        "sys.exit(3)\n"
    )
    scenario = staged(
        parse('name = "bare"\nduration = 60\n[provider]\nservice = 0.02\n'), own_traffic=True
    )
    played = await play(scenario, own, own_traffic=True)
    measures = played.result.measures

    assert (measures.calls, measures.success, measures.amplification) == (5, 1.0, 2.0)
    assert played.exits == (3,)  # any exit code is valid


async def test_a_request_of_a_copy_counts_while_the_next_copy_starts(script, tmp_path, monkeypatch):
    done = tmp_path / "done"
    own = script(
        "import live_asker\nlive_asker.ask({'call': 1, 'prompt': 'p', 'model': 'm', 'timeout': 20})\n"
        f"open({str(done)!r}, 'w').close()\n"
    )

    async def slowly(*args, **more):
        await programs.start(*args, **more)
        while not done.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)

    monkeypatch.setattr(run, "start", slowly)
    scenario = staged(
        parse("duration = 60\n[provider]\nservice = 0.02\n"), copies=1, own_traffic=True
    )
    played = await play(scenario, own, own_traffic=True)

    assert (played.result.measures.calls, played.result.measures.success) == (1, 1.0)


async def test_a_program_gets_base_urls_and_keys_of_the_storm(script, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "a-real-one")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("MINE", "stays")
    environment = tmp_path / "environment.json"
    prints_environment = script(
        f"import os, json\njson.dump(dict(os.environ), open({str(environment)!r}, 'w'))\n"
        "import live_asker\nfor line in sys.stdin:\n    live_asker.ask(json.loads(line))\n"
    )
    await play(short(duration=0.2), prints_environment)
    variables = json.loads(environment.read_text())

    assert variables["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
    assert variables["OPENAI_BASE_URL"] == variables["ANTHROPIC_BASE_URL"] + "/v1"
    assert {variables["OPENAI_API_KEY"], variables["ANTHROPIC_API_KEY"]} == {"storm"}
    assert (variables["NO_PROXY"], variables["MINE"]) == ("127.0.0.1,example.org", "stays")


@pytest.mark.parametrize(
    ("source", "message", "stderr"),
    [
        ("sys.exit('no luck')", "ended before the storm began, with exit code 1", "no luck"),
        ("import os\nos.kill(os.getpid(), 9)", "before the storm began, with signal 9", ""),
        (
            "import live_asker, json\nlive_asker.ask(json.loads(input()))\ninput()\n1 / 0",
            "of the storm, with exit code 1",
            "ZeroDivisionError",
        ),
    ],
)
async def test_a_program_that_dies_early_is_named(script, source, message, stderr):
    with pytest.raises(ProgramError) as caught:
        await play(short(duration=20), script(source, "mortal"))

    assert str(caught.value).startswith("mortal: ")
    assert message in str(caught.value)
    assert stderr in caught.value.stderr


async def test_the_kept_end_of_standard_error_is_bounded(script):
    loud = script("sys.stderr.write('x' * 1_000_000 + 'y')\nsys.exit(1)")
    with pytest.raises(ProgramError) as caught:
        await play(short(), loud)

    assert len(caught.value.stderr) == 4096
    assert caught.value.stderr.endswith("y")


async def test_a_copy_that_dies_is_numbered(script, tmp_path):
    mortal = script(
        f"import os\nos.mkdir({str(tmp_path / 'first')!r})\nfor line in sys.stdin: pass"
    )
    with pytest.raises(ProgramError, match=r"script: copy \d of 2 ended before"):
        await play(short(copies=2), mortal, copies=2)


async def test_a_program_that_never_sends_a_request_is_named(script, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 0.5)
    with pytest.raises(ProgramError, match="0 of 1 copies sent a request for their first call"):
        await play(short(), script("for line in sys.stdin: pass"))
    with pytest.raises(ProgramError, match="it sent no request in"):
        await play(short(), script("import time\ntime.sleep(60)"), own_traffic=True)
    with pytest.raises(ProgramError, match="without a request, with exit code 0"):
        await play(short(), script(""), own_traffic=True)


async def test_an_unparsable_request_before_the_first_call_gets_the_reason(script, monkeypatch):
    async def start_and_wait(program, running, *args, **options):
        await programs.start(program, running, *args, **options)
        while running[0].code is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    monkeypatch.setattr(run, "start", start_and_wait)
    lost = script(
        "import os, urllib.request\n"
        "urllib.request.urlopen(os.environ['OPENAI_BASE_URL'] + '/embeddings', data=b'no JSON')"
    )
    with pytest.raises(ProgramError, match=r"\(its requests were answered with 400\)"):
        await play(short(), lost)


async def test_a_program_that_stops_sending_requests_is_named(script):
    once = script(
        "import live_asker, json\nlive_asker.ask(json.loads(input()))\nfor line in sys.stdin: pass"
    )
    with pytest.raises(ProgramError, match="script: it sent no request for any of its calls"):
        await play(short(duration=0.3), once)


async def test_a_storm_without_a_call_is_rejected(asker):
    with pytest.raises(ConfigurationError, match=r"short: no call arrives in 0.98 s"):
        await play(short(rate=0.001), asker())


async def test_a_program_that_does_not_exist_is_rejected(tmp_path):
    with pytest.raises(ConfigurationError, match="no such file"):
        await play(short(), Program("x", (str(tmp_path / "nothing"),)))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_a_program_may_be_a_shell_script():
    shell = Program("curl", ("sh", str(CLIENTS / "curl.sh")))
    measures = (await play(short(rate=8), shell)).result.measures

    assert (measures.calls, measures.success, measures.amplification) == (7, 1.0, 1.0)


def test_the_shell_script_is_valid():
    subprocess.run(["sh", "-n", CLIENTS / "curl.sh"], check=True)
