"""`stormbreak batch run` on a terminal: the panel, and protection from escape sequences."""

import fcntl
import json
import os
import pty
import re
import struct
import termios
from contextlib import suppress

import pytest
from batches import PATIENCE, chat_row, one_line, run, run_args, scenario, started, write
from odd_servers import socket_server

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

HOSTILE = "\x1b[31mcanary\x1b]0;canary\x07[bold]canary[/bold]\r\n"


def on_a_terminal(*args, columns=100):
    """Run the command with stderr on a terminal; return its exit code and the screen output."""
    screen, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    seen = []
    with started(*args, stdout=end, stderr=end, env={"COLUMNS": str(columns)}) as process:
        os.close(end)
        with suppress(OSError):  # the other end is closed when the process has ended
            while piece := os.read(screen, 1 << 16):
                seen.append(piece)
        code = process.wait(PATIENCE)
    os.close(screen)
    return code, b"".join(seen).decode()


def test_a_terminal_shows_a_panel_and_then_the_summary(source, output, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.1}, service=0.2))
    args = run_args(source, output, provider.base_url)
    _, screen = on_a_terminal(*args, "--concurrency", "5")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    for word in ("done", "failed", "left", "rows/s", "in flight", "of 5", "waiting", "retries",
                 "circuit", "closed", "tokens", "to go", "answered"):  # fmt: skip
        assert word in plain
    assert max(len(line) for line in plain_lines(screen)) <= 100


def plain_lines(screen):
    """The drawn lines, without paths, which may have any length."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    return [line for line in re.split(r"[\r\n]+", plain) if ".jsonl" not in line]


def price_file(folder, provider, *, model="storm-1"):
    path = folder / "deal.toml"
    path.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "{model}"\ninput = 3000\noutput = 15000\n'
    )
    return path


def test_the_panel_shows_the_cost_so_far_in_80_columns(
    source, output, tmp_path, stormbreak_provider
):
    """Each row may cost about 1.50 dollars. The last cost of the panel is that of the summary."""
    write(source, [chat_row(n, max_tokens=100) for n in range(30)])
    provider = stormbreak_provider(scenario(service=0.5, use_max_tokens=True))
    prices = price_file(tmp_path, provider)
    args = run_args(source, output, provider.base_url)
    flags = ("--concurrency", "5", "--prices", prices, "--max-cost", "100")
    code, screen = on_a_terminal(*args, *flags, columns=80)
    lines = plain_lines(screen)

    cost_line = re.compile(
        r"cost +([0-9.]+)(?: to ([0-9.]+))? USD; ([0-9]+) % of the 100.00 USD that it may cost"
    )
    seen = [found.groups() for line in lines if (found := cost_line.fullmatch(line.rstrip()))]
    assert code == 0
    assert max(len(line) for line in lines) <= 78
    spans = [(float(least), float(most or least), int(share)) for least, most, share in seen]
    assert spans == sorted(spans, key=lambda span: span[0])
    assert any(0 < least < most for least, most, _ in spans)  # includes requests in flight
    least, most, share = spans[-1]
    assert least == most == pytest.approx(47, abs=3)
    assert share == int(least)


def test_the_panel_shows_no_cost_without_a_price(source, output, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.5))
    args = run_args(source, output, provider.base_url)
    _, screen = on_a_terminal(*args, "--concurrency", "10", columns=80)
    assert "cost" not in "".join(plain_lines(screen))


def test_escape_sequences_of_ids_models_and_errors_reach_no_terminal(
    source, tmp_path, output, stormbreak_provider
):
    """Ids, models and errors contain escapes and markup. The error message is shown escaped."""
    rows = [chat_row(n) | {"custom_id": f"{n}{HOSTILE}"} for n in range(30)]
    for row in rows[::2]:
        row["body"]["model"] = HOSTILE
    write(source, rows)
    with hostile_server() as url:
        args = run_args(source, output, url)
        code, screen = on_a_terminal(*args)
        with_lines = run(*args)
    assert (code, with_lines.returncode) == (1, 1)
    for shown in (screen, with_lines.stdout + with_lines.stderr):
        reason = re.search(r"reason +invalid[^\r\n]*", shown)[0]
        assert not re.search(r"[\x00-\x1f\x7f]", reason)
        assert "canary" not in shown.replace(reason, "")
    twice = write(tmp_path / "twice.jsonl", [rows[1], rows[1]])
    done = run("batch", "run", twice, "--output", tmp_path / "o.jsonl", "--base-url", url)
    assert done.returncode == 2
    assert "\x1b" not in one_line(done.stderr)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stderr)


def hostile_server():
    """A server that rejects every request with escape sequences."""
    error = {"message": HOSTILE, "type": HOSTILE, "code": HOSTILE}
    body = json.dumps({"error": error}).encode()
    head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    def refuse(peer):
        peer.recv(1 << 16)
        peer.sendall(head.encode() + body)

    return socket_server(refuse)
