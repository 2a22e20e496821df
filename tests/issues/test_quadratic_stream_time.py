"""Names in many pieces, or empty pieces before a type conflict, were scanned again with every event of a stream."""

import json
import time

from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.stream_reader import StreamAssembler

EVENTS = 30_000
HALF = EVENTS // 2


def chunk(index=0, finish=None, **delta):
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


STREAMS = {
    "a name in pieces": lambda: [chunk(name=f"n{number}") for number in range(EVENTS)],
    "empty pieces": lambda: [
        *([chunk(content="")] * HALF),
        chunk(content="a"),
        *([chunk(content=[])] * HALF),
    ],
    "unrequested choices": lambda: [chunk(number, "stop") for number in range(EVENTS)],
    "fields of the body": lambda: [
        b'data: {"choices":[],"x":{"k%d":1}}\n\n' % number for number in range(EVENTS)
    ],
}


@table_test("stream", STREAMS)
def test_a_long_stream_is_assembled_in_linear_time(stream):
    assembler = StreamAssembler(Shape.CHAT)
    events = STREAMS[stream]()
    begun = time.process_time()
    for event in events:
        assembler.feed(event)
        _ = assembler.whole
    assembler.end()

    assert time.process_time() - begun < 5
