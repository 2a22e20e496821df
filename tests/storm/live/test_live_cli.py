"""`stormbreak storm live`: what is printed, and the exit codes."""

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import termios
import time
from contextlib import suppress

import pytest
from batches import PATIENCE
from fork_server import PROGRAM, ForkedPopen
from small_storm import small_storm

from stormbreak.cli.main import main
from stormbreak.cli.storm.live import warnings_of
from stormbreak.provider.scenario_file import parse
from stormbreak.storm.assertions import NAMES
from stormbreak.storm.live import Played
from stormbreak.storm.live.cpu_load import PeakCpuLoad
from stormbreak.storm.live.scaling import staged
from stormbreak.storm.traffic import traffic

FIRST_ATTEMPT_FAILS = """
duration = 1
[provider]
service = 0.02
[[faults]]
kind = "503"
first_attempts = 1
[load]
rate = 20
deadline = 60
timeout = 60
"""
"""A call with one attempt is never answered, with two it always is, also on a busy machine."""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(small_storm(rate=1))
    return str(path)


@pytest.fixture
def brief(tmp_path):
    path = tmp_path / "brief.toml"
    path.write_text(FIRST_ATTEMPT_FAILS)
    return str(path)


BUSY = re.compile(r"of a core for \d+ s: it may|all cores were busy|was started \S+ s late")


def live(capsys, *args):
    """Exit code, output, errors; without warnings about a busy machine."""
    code = main(["storm", "live", *args])
    captured = capsys.readouterr()
    lines = captured.err.splitlines(keepends=True)
    return code, captured.out, "".join(line for line in lines if not BUSY.search(line))


def test_programs_are_compared_in_a_sentence_and_a_table(capsys, brief, asker, typed):
    again = f"again={shlex.join(asker(3).words)}"
    code, out, err = live(capsys, brief, "--cmd", typed(asker()), "--cmd", again)
    first, *rest = out.splitlines()

    assert (code, err) == (0, "")
    assert first.startswith("brief under asker answers 0.0 % ")
    assert "the weakest moment is second " in first
    assert rest[1].split() == ["asker", "again"]
    shown = {line.split()[0]: line.split()[1:] for line in rest[2:] if line.split()}
    assert set(NAMES) - set(shown) == {"openings"}
    assert shown["success"] == ["0.0", "%", "100.0", "%"]
    assert shown["amplification"] == ["1.00", "2.00"]
    assert rest[-2] == "Measured at the provider, at scale 1 and speed 1; copies: 1."


def test_json_has_the_measures_of_the_first_program_and_of_each_run(capsys, small, asker, typed):
    args = ("--cmd", typed(asker()), "--seed", "3", "--scale", "2", "--duration", "38", "--json")
    code, out, _ = live(capsys, small, *args, "--speed", "25")
    document = json.loads(out)

    assert code == 0
    assert set(NAMES) < set(document)
    assert document["openings"] is None
    assert (document["scenario"], document["program"], document["failed"]) == ("small", "asker", {})
    options = [document[name] for name in ("seed", "seeds", "scale", "until", "speed")]
    assert options == [3, 1, 2, 38, 25]
    (run,) = document["runs"]
    assert (run["program"], run["seed"], run["unmatched_requests"]) == ("asker", 3, 0)
    assert {name: run[name] for name in NAMES} == {name: document[name] for name in NAMES}
    assert set(run["busiest"]) == {"program", "provider", "machine"}
    assert document["calls"] > 40


def test_programs_get_the_same_arrivals_and_may_end_by_themselves(capsys, brief, asker, typed):
    again = f"again={shlex.join(asker().words)}"
    args = ("--cmd", typed(asker()), "--cmd", again, "--json")
    runs = json.loads(live(capsys, brief, *args)[1])["runs"]

    assert runs[0]["calls"] == runs[1]["calls"] > 10
    assert [run["exits"] for run in runs] == [[0], [0]]


def test_seeds_are_consecutive_storms(capsys, brief, asker, typed):
    again = f"again={shlex.join(asker(2).words)}"
    args = ("--cmd", typed(asker()), "--cmd", again, "--seed", "3", "--seeds", "2", "--json")
    code, out, _ = live(capsys, brief, *args)
    document = json.loads(out)
    runs = document["runs"]
    each = [run["calls"] for run in runs]
    mean = (each[0] + each[2]) / 2

    assert code == 0
    assert (document["seed"], document["seeds"]) == (3, 2)
    assert [(run["program"], run["seed"]) for run in runs] == [
        ("asker", 3), ("again", 3), ("asker", 4), ("again", 4),
    ]  # fmt: skip
    assert each[0] == each[1] != each[2] == each[3]
    assert (document["calls"], document["success"], document["openings"]) == (
        round(mean),
        0.0,
        None,
    )
    asked, tried = (document["programs"][name] for name in ("asker", "again"))
    assert asked["measures"]["calls"]["mean"] == mean
    assert asked["measures"]["openings"] is None
    assert asked["verdict"].startswith("brief under asker (seeds 3-4) answers 0.0 %")
    assert asked["weakest"]["seed"] == (3 if each[0] > each[2] else 4)
    assert tried["measures"]["success"] == {
        "mean": 1.0, "deviation": 0.0, "worst": 1.0, "never": 0, "seeds": 2,
    }  # fmt: skip


def test_mean_and_worst_of_several_seeds_are_shown(capsys, brief, asker, typed):
    storm = staged(parse(FIRST_ATTEMPT_FAILS))
    first, second = (len(traffic(storm.load, storm.duration, seed).times) for seed in (0, 1))
    assert round((first + second) / 2) != first
    claim = ("--assert", f"success == 1 and calls == {round((first + second) / 2)}")
    code, out, err = live(capsys, brief, "--cmd", typed(asker(2)), "--seeds", "2", *claim)
    shown = {line.split()[0]: line for line in out.splitlines() if line.split()}

    assert (code, err) == (0, "")
    assert out.startswith("brief under asker (seeds 0-1) answers ")
    assert out.count("  the worst ") == 4
    assert "±" in shown["calls"]


def test_a_program_that_fails_at_a_seed_gets_no_further_seed(
    capsys, brief, script, asker, typed, tmp_path
):
    once = tmp_path / "once"
    mortal = script(
        f"import json, live_asker, os\nif os.path.exists({str(once)!r}): sys.exit('no more')\n"
        f"open({str(once)!r}, 'w').close()\nfor line in sys.stdin: live_asker.ask(json.loads(line))\n",
        "mortal",
    )
    args = ("--cmd", typed(mortal), "--cmd", typed(asker()), "--seeds", "3", "--json")
    code, out, err = live(capsys, brief, *args)
    document = json.loads(out)

    assert code == 1
    assert err == (
        "stormbreak: mortal: ended before the storm began, with exit code 1;"
        " its last line: no more (seed 1)\n"
    )
    assert [(run["program"], run["seed"]) for run in document["runs"]] == [
        ("mortal", 0), ("asker", 0), ("asker", 1), ("asker", 2),
    ]  # fmt: skip
    assert set(document["failed"]) == {"mortal"}


def test_own_traffic_needs_no_load(capsys, script, typed):
    own = script(
        "import live_asker\nfor number in range(5):\n"
        "    live_asker.ask({'call': 1, 'prompt': f'p{number}', 'model': 'm', 'timeout': 20})\n"
    )
    code, out, _ = live(capsys, "bench", "--own-traffic", "--cmd", typed(own), "--json")
    document = json.loads(out)

    assert code == 0
    assert (document["own_traffic"], document["calls"], document["success"]) == (True, 5, 1.0)


def test_an_assertion_applies_to_the_first_program(capsys, brief, asker, typed):
    again = f"again={shlex.join(asker(2).words)}"
    cmd = ("--cmd", typed(asker()), "--cmd", again)
    assert live(capsys, brief, *cmd, "--assert", "calls > 10 and amplification == 1")[0] == 0

    code, out, err = live(capsys, brief, *cmd, "--assert", "success > 0.999")
    assert code == 1
    assert out
    assert err == "stormbreak: --assert does not hold: success > 0.999; success is 0.0\n"


def test_a_program_that_dies_is_named_and_the_others_go_on(capsys, brief, script, asker, typed):
    key = "sk-" + "abcd1234" * 4
    mortal = script(f"sys.exit('cannot log in\\nwith {key}\\n')", "mortal")
    args = ("--cmd", typed(mortal), "--cmd", typed(asker()))
    code, out, err = live(capsys, brief, *args)

    assert code == 1
    assert out.startswith("brief under asker ")
    assert err == (
        "stormbreak: mortal: ended before the storm began, with exit code 1;"
        " its last line: with (what looks like a key)\n"
    )
    code, out, err = live(capsys, brief, "--cmd", typed(mortal), "--json")
    document = json.loads(out)
    assert (code, document["runs"]) == (1, [])
    assert document["failed"] == {
        "mortal": "mortal: ended before the storm began, with exit code 1"
    }


def test_invalid_input_is_one_line_and_exit_code_2(capsys, small):
    for args, message in (
        ([], "Missing option '--cmd'"),
        (["--cmd", "no-such-program -x"], "program 'no-such-program' not found"),
        (["--cmd", "a=sh", "--cmd", "a=sh -x"], "two programs are named 'a': write --cmd NAME="),
        (["--cmd", "sh", "--cmd", "/bin/sh"], "two programs are named 'sh'"),
        (["--cmd", "/no/venv311/bin/run2"], "program '/no/venv311/bin/run2' not found"),
        (
            ["--cmd", "/no/" + "abcd1234" * 4],
            "program what looks like a key, not like a name not found",
        ),
        (["--cmd", ""], "--cmd names no program"),
        (["--cmd", "a="], "--cmd names no program"),
        (["--cmd", "sh -c 'echo"], "--cmd cannot be read: no closing quotation"),
        (
            ["--cmd", "sh", "--duration", "20"],
            "--duration must be at least 38, 30 s after the trigger",
        ),
        (["--cmd", "sh", "--duration", "nan"], "'--duration': must be a number from 1e-06"),
        (
            ["--cmd", "sh", "--scale", "0"],
            "'--scale': must be a number from 1e-06 to 1,000,000, got",
        ),
        (["--cmd", "sh", "--speed", "-1"], "'--speed': must be a number from 0.001 to"),
        (["--cmd", "sh", "--copies", "0"], "'--copies'"),
        (["--cmd", "sh", "--assert", "godput > 1"], "'godput' is not a measure; did you mean good"),
        (["--cmd", "sh", "--assert", "openings < 1"], "openings is not visible from outside a pr"),
        (["--cmd", "sh", "--report", "x.txt"], "--report must end in .html or .png, got 'x.txt'"),
        (
            ["--cmd", "sk-" + "abcd1234" * 4],
            "program what looks like a key, not like a name not found",
        ),
    ):
        code, out, err = live(capsys, small, *args)

        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
        assert "abcd1234" not in err


def test_an_unknown_scenario_or_one_without_load_is_rejected(capsys):
    assert live(capsys, "storm-of-the-century", "--cmd", "sh")[0] == 2
    code, _, err = live(capsys, "bench", "--cmd", "sh")
    assert code == 2
    assert "bench: a live storm needs a [load], or --own-traffic; got neither" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_programs_with_exit_code_130(small, script, tmp_path, number):
    path = tmp_path / "pid"
    program = script(
        "import os, live_asker, json\nfor line in sys.stdin:\n    call = json.loads(line)\n"
        f"    if call['call'] == 1: open({str(path)!r}, 'w').write(f'{{os.getpid()}}.')\n"
        "    live_asker.ask(call)\n"
    )
    cmd = [*PROGRAM, "storm", "live", small]
    run = ForkedPopen(
        [*cmd, "--cmd", shlex.join(program.words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not path.exists() or not path.read_text().endswith("."):  # the storm has begun
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    run.send_signal(number)
    out, err = run.communicate(timeout=PATIENCE)

    assert (run.returncode, out, err) == (130, "", "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text().removesuffix(".")), 0)


def test_the_progress_is_shown_on_a_terminal(brief, asker, typed):
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    cmd = [*PROGRAM, "storm", "live", brief]
    seen = b""
    with ForkedPopen([*cmd, "--cmd", typed(asker())], stdout=subprocess.DEVNULL, stderr=end) as run:
        os.close(end)
        with suppress(OSError):  # the other end is closed when the process is gone
            while piece := os.read(screen, 1 << 16):
                seen += piece
    os.close(screen)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())

    assert run.returncode == 0
    assert "brief, asker" in plain
    assert re.search(r"of 1 s: \d+ calls, \d+ attempts, \d+ answered", plain)


def test_reasons_to_doubt_the_figures_are_printed():
    busiest = PeakCpuLoad(program=0.93, provider=0.85, machine=0.99)
    played = Played(result=None, unmatched_requests=3, exits=(0,), latest=0.4, busiest=busiest)
    *busy, _ = warnings_of(played)
    assert all(map(BUSY.search, busy))
    assert [warning.split(":")[0] for warning in warnings_of(played)] == [
        "a copy used 93% of a core for 5 s",
        "the provider used 85% of a core for 5 s",
        "all cores were busy for 5 s",
        "a call was started 0.4 s late",
        "3 requests did not have a prompt of the storm; they count only as attempts",
    ]
    calm = Played(result=None, unmatched_requests=0, exits=(0,), latest=0.01, busiest=PeakCpuLoad())
    assert list(warnings_of(calm)) == []
