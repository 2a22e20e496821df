"""What holds for all faults: each is played by a test, and none says more than it should."""

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


def test_only_good_answers_count(trouble, dial):
    for kind, good in [("twice", 1), ("interim", 1), ("stale", 0), ("gzip_cut", 0), ("crlf", 1)]:
        provider = trouble(kind)
        client = dial(provider)
        client.send(request_bytes(payload=STREAM))
        client.everything(0.1)
        assert provider.stats()["keys"]["answered"] == good, kind


@pytest.mark.parametrize("kind", ["stall", "stall_early", "long_length"])
def test_a_client_that_waits_for_the_rest_gets_nothing_else(trouble, dial, kind):
    client = dial(trouble(kind, "requests = [1]"))
    client.send(request_bytes())
    assert client.everything(0.1)[1] == "silent"
    client.send(request_bytes())
    assert client.everything(0.1) == (b"", "silent")


# ------------------------------------------------------------ whoever does not read


class Narrow:
    """A transport that takes three writes, and then says that the client does not read."""

    def __init__(self):
        self.written = []
        self.full = None

    def write(self, data):
        self.written.append(data)
        assert len(self.written) < 10, "it is never held up"
        if len(self.written) % 3 == 0:
            self.full()


class Nobody:
    """A desk that is called by one connection only."""

    def opened(self, _):
        return 1


def test_what_is_never_read_fills_nothing():
    connection, transport = Connection(Nobody()), Narrow()
    transport.full = connection.pause_writing
    connection.connection_made(transport)
    endless = Script(repeat(Piece(0, b"more")), Ending.KEEP, 200)

    connection.play(endless, keep_alive=True, done=None)
    assert len(transport.written) == 3
    connection.resume_writing()
    assert len(transport.written) == 6
