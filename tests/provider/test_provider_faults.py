"""Rules for all faults: a test plays each of them, and only good answers count as answered."""

import re
from itertools import repeat
from pathlib import Path

import pytest

from stormbreak.provider.connection import Connection
from stormbreak.provider.faults import GOOD, bodies, connections, streams
from stormbreak.provider.scripts import Ending, Piece, Script

from .conftest import STREAM, request_bytes


def test_every_fault_is_tested():
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    played = {
        kind for text in texts for kind in re.findall(r'^@plays\("(\w+)"\)$', text, re.MULTILINE)
    }
    tables = (GOOD, bodies.FAULTS, streams.FAULTS, connections.FAULTS)
    assert {kind.value for table in tables for kind in table} == played


def test_only_good_answers_count_as_answered(faulty, dial):
    for kind, good in [("twice", 1), ("interim", 1), ("stale", 0), ("gzip_cut", 0), ("crlf", 1)]:
        provider = faulty(kind)
        client = dial(provider)
        client.send(request_bytes(payload=STREAM, headers=["connection: close"]))
        client.everything()
        assert provider.stats()["keys"]["answered"] == good, kind


@pytest.mark.parametrize(
    ("kind", "first"),
    [("stall", b"\r\n\r\n{"), ("stall_early", b"\r\n\r\n"), ("long_length", b"\r\n\r\n{")],
)
def test_a_stalled_answer_is_not_followed_by_another_response(faulty, dial, kind, first):
    client = dial(faulty(kind, "requests = [1]"))
    client.send(request_bytes())
    assert client.everything(0.1, first=first)[1] == "silent"
    client.send(request_bytes())
    assert client.everything(0.1) == (b"", "silent")


# ------------------------------------------------------------ a client that does not read


class SlowReader:
    """A transport that accepts three writes and then reports that the client does not read."""

    def __init__(self):
        self.written = []
        self.full = None

    def write(self, data):
        self.written.append(data)
        assert len(self.written) < 10, "the writer never pauses"
        if len(self.written) % 3 == 0:
            self.full()


class OneConnection:
    """A server with one connection."""

    def opened(self, _):
        return 1


def test_a_client_that_does_not_read_pauses_the_writer():
    connection, transport = Connection(OneConnection()), SlowReader()
    transport.full = connection.pause_writing
    connection.connection_made(transport)
    endless = Script(repeat(Piece(0, b"more")), Ending.KEEP, 200)

    connection.play(endless, keep_alive=True, done=None)
    assert len(transport.written) == 3
    connection.resume_writing()
    assert len(transport.written) == 6
