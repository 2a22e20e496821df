"""Answers of one format as the client reads them, plain and streamed, and checks for every format."""

import json
from typing import NamedTuple

from streamed import DONE

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.stream_reader import StreamAssembler
from stormbreak.types import Verdict


class Reader(NamedTuple):
    """Reads one shape, and checks the readings."""

    shape: Shape

    def plain(self, body):
        return read_answer(HttpResponse(200, {}, json.dumps(body).encode(), 0.0), self.shape)

    def fed(self, *events):
        """Feed the events; return the assembler and, per event, whether the first output had arrived."""
        assembler = StreamAssembler(self.shape)
        seen = []
        for one in events:
            assembler.feed(one)
            seen.append(assembler.first_output)
        return assembler, seen

    def streamed(self, *events):
        """The reading of a stream, and its assembled answer."""
        reading, body = self.fed(*events)[0].end()
        return reading, json.loads(body) if body else None

    def check_plain(self, body, text, finish_reason, usage):
        reading = self.plain(body)
        found = (reading.verdict, reading.text, reading.finish_reason)
        assert found == (Verdict.OK, text, finish_reason)
        assert reading.usage == usage

    def check_none(self, body, detail):
        """A body that is no answer is broken, with the reason."""
        reading = self.plain(body)
        assert (reading.verdict, reading.detail) == (Verdict.BROKEN, detail)

    def check_becomes(self, stream, whole):
        """A stream has the reading of the same plain answer."""
        reading, body = self.streamed(*stream)
        assert reading == self.plain(body)
        assert (reading.verdict, body) == (Verdict.OK, whole)

    def check_cut(self, events):
        """A stream without its end, or with the end of another format, is broken."""
        reading, body = self.streamed(*events)
        assert (reading.verdict, body) == (Verdict.BROKEN, None)
        assert self.streamed(*events, DONE)[0].verdict is Verdict.BROKEN

    def check_malformed(self, events, detail):
        reading, _ = self.streamed(*events)
        assert (reading.verdict, reading.detail) == (Verdict.BROKEN, detail)

    def check_first_output(self, stream, before, after):
        """`before` events precede the first output, `after` events are or follow it; then the stream is over."""
        assembler, seen = self.fed(*stream)
        assert seen == [False] * before + [True] * after
        assert assembler.over
