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
import sys
import termios
import time
from contextlib import suppress

import pytest
from small_storm import small_storm

from stormbreak.cli.live_screen import warnings_of
from stormbreak.cli.main import main
from stormbreak.storm.claims import NAMES
from stormbreak.storm.live import Played
from stormbreak.storm.live.busy import Busiest

AT_SPEED = ("--speed", "25")


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(small_storm(rate=1))
    return str(path)


BUSY = re.compile(r"of a core for \d+ s: it may|all cores were busy|was handed over \S+ s late")


def live(capsys, *args):
    """Exit code, output, errors; without the warnings that this machine is busy, which it may be."""
    code = main(["storm", "live", *args])
    captured = capsys.readouterr()
    lines = captured.err.splitlines(keepends=True)
    return code, captured.out, "".join(line for line in lines if not BUSY.search(line))


def test_a_sentence_and_a_table_of_programs_side_by_side(capsys, small, asker, typed):
    again = f"again={shlex.join(asker(3).words)}"
    code, out, err = live(capsys, small, "--cmd", typed(asker()), "--cmd", again, *AT_SPEED)
    first, *rest = out.splitlines()

    assert (code, err) == (0, "")
    assert first.startswith("small under asker ")
    assert "the weakest moment is second " in first
    assert rest[1].split() == ["asker", "again"]
    shown = {line.split()[0] for line in rest[2:] if line.split()}
    assert set(NAMES) - shown == {"openings"}
    assert rest[-2] == "As the provider saw it, at scale 1 and speed 25; copies: 1."


def test_json_has_the_measures_of_the_first_and_of_each(capsys, small, asker, typed):
    args = ("--cmd", typed(asker()), "--seed", "3", "--scale", "2", "--until", "38", "--json")
    code, out, _ = live(capsys, small, *args, *AT_SPEED)
    document = json.loads(out)

    assert code == 0
    assert set(NAMES) < set(document)
    assert document["openings"] is None
    assert (document["scenario"], document["program"], document["failed"]) == ("small", "asker", {})
    assert [document[name] for name in ("seed", "scale", "until", "speed")] == [3, 2, 38, 25]
    (run,) = document["runs"]
    assert run["goodput"] == document["goodput"]
    assert (run["exits"], run["strangers"]) == ([0], 0)
    assert set(run["busiest"]) == {"program", "provider", "machine"}
    assert document["calls"] > 40


def test_programs_meet_the_same_arrivals(capsys, small, asker, typed):
    again = f"again={shlex.join(asker().words)}"
    args = ("--cmd", typed(asker()), "--cmd", again, "--json")
    runs = json.loads(live(capsys, small, *args, *AT_SPEED)[1])["runs"]

    assert runs[0]["calls"] == runs[1]["calls"] > 20


def test_a_program_s_own_traffic_needs_no_load(capsys, script, typed):
    own = script(
        "import live_asker\nfor number in range(5):\n"
        "    live_asker.ask({'call': 1, 'prompt': f'p{number}', 'model': 'm', 'timeout': 5})\n"
    )
    code, out, _ = live(capsys, "bench", "--own-traffic", "--cmd", typed(own), "--json")
    document = json.loads(out)

    assert code == 0
    assert (document["own_traffic"], document["calls"], document["success"]) == (True, 5, 1.0)


def test_an_assert_is_about_the_first(capsys, small, asker, typed):
    cmd = ("--cmd", typed(asker()), *AT_SPEED)
    assert live(capsys, small, *cmd, "--assert", "calls > 20 and amplification == 1")[0] == 0

    code, out, err = live(capsys, small, *cmd, "--assert", "success > 0.999")
    assert code == 1
    assert out
    assert err.startswith("stormbreak: --assert does not hold: success > 0.999; success is 0.")


def test_one_that_dies_is_named_and_the_others_play_on(capsys, small, script, asker, typed):
    key = "sk-" + "abcd1234" * 4
    mortal = script(f"sys.exit('cannot log in\\nwith {key}\\n')", "mortal")
    args = ("--cmd", typed(mortal), "--cmd", typed(asker()), *AT_SPEED)
    code, out, err = live(capsys, small, *args)

    assert code == 1
    assert out.startswith("small under asker ")
    assert err == (
        "stormbreak: mortal: ended before the storm began, with exit code 1;"
        " the last it said: with (what looks like a key)\n"
    )
    code, out, err = live(capsys, small, "--cmd", typed(mortal), "--json")
    document = json.loads(out)
    assert (code, document["runs"]) == (1, [])
    assert document["failed"] == {
        "mortal": "mortal: ended before the storm began, with exit code 1"
    }


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "Missing option '--cmd'"),
        (["--cmd", "no-such-program -x"], "there is no program 'no-such-program' that can be sta"),
        (["--cmd", "a=sh", "--cmd", "a=sh -x"], "two programs are called 'a': write --cmd NAME="),
        (["--cmd", "sh", "--cmd", "/bin/sh"], "two programs are called 'sh'"),
        (["--cmd", "/no/venv311/bin/run2"], "there is no program '/no/venv311/bin/run2' that"),
        (["--cmd", "/no/" + "abcd1234" * 4], "no program what looks like a key"),
        (["--cmd", ""], "--cmd names no program"),
        (["--cmd", "a="], "--cmd names no program"),
        (["--cmd", "sh -c 'echo"], "--cmd cannot be read: no closing quotation"),
        (["--cmd", "sh", "--until", "20"], "--until must be at least 38, 30 s after the trigger"),
        (["--cmd", "sh", "--until", "nan"], "'--until': must be a positive number from 1e-06"),
        (["--cmd", "sh", "--scale", "0"], "'--scale': must be a positive number"),
        (["--cmd", "sh", "--speed", "-1"], "'--speed': must be a positive number from 0.001 to"),
        (["--cmd", "sh", "--copies", "0"], "'--copies'"),
        (["--cmd", "sh", "--assert", "godput > 1"], "'godput' is no measure; did you mean good"),
        (["--cmd", "sh", "--assert", "openings < 1"], "openings cannot be seen from outside a pr"),
        (["--cmd", "sh", "--report", "x.txt"], "--report must end in .html or .png, got 'x.txt'"),
        (["--cmd", "sk-" + "abcd1234" * 4], "no program what looks like a key"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, small, args, complaint):
    code, out, err = live(capsys, small, *args)

    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert "abcd1234" not in err


def test_what_is_no_scenario_or_has_no_load(capsys):
    assert live(capsys, "storm-of-the-century", "--cmd", "sh")[0] == 2
    code, _, err = live(capsys, "bench", "--cmd", "sh")
    assert code == 2
    assert "bench: a live storm needs a [load], or --own-traffic; got neither" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_with_130(small, script, tmp_path, number):
    path = tmp_path / "pid"
    program = script(
        f"import os, live_asker, json\nopen({str(path)!r}, 'w').write(str(os.getpid()))\n"
        "for line in sys.stdin:\n    live_asker.ask(json.loads(line))\n"
    )
    cmd = [sys.executable, "-m", "stormbreak.cli.main", "storm", "live", small]
    run = subprocess.Popen(
        [*cmd, "--cmd", shlex.join(program.words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    run.send_signal(number)
    out, err = run.communicate(timeout=10)

    assert (run.returncode, out, err) == (130, "", "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def test_how_far_it_is_stands_on_a_terminal(small, asker, typed):
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    cmd = [sys.executable, "-m", "stormbreak.cli.main", "storm", "live", small, *AT_SPEED]
    seen = b""
    with subprocess.Popen(
        [*cmd, "--cmd", typed(asker())], stdout=subprocess.DEVNULL, stderr=end
    ) as run:
        os.close(end)
        with suppress(OSError):  # the other end is closed when the process is gone
            while piece := os.read(screen, 1 << 16):
                seen += piece
    os.close(screen)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())

    assert run.returncode == 0
    assert "small, asker" in plain
    assert re.search(r"of 40 s: \d+ calls, \d+ attempts, \d+ answered", plain)


def test_reasons_to_doubt_the_figures_are_said():
    busiest = Busiest(program=0.93, provider=0.85, machine=0.99)
    played = Played(result=None, strangers=3, exits=(0,), latest=0.4, busiest=busiest)
    assert [warning.split(":")[0] for warning in warnings_of(played)] == [
        "a copy used 93% of a core for 5 s",
        "the provider used 85% of a core for 5 s",
        "all cores were busy for 5 s",
        "a call was handed over 0.4 s late",
        "3 requests held no prompt of the storm, and are in no measure but the attempts",
    ]
    calm = Played(result=None, strangers=0, exits=(0,), latest=0.01, busiest=Busiest())
    assert list(warnings_of(calm)) == []
