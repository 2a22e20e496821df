"""A streamed answer, put together, read to its end and judged like a plain one (law 15).

A chat completion is complete when every choice has said why it finished. The closing ``[DONE]`` is not asked
for where the body ends rightly, or usage follows in an event of its own: some providers omit it. Without either, silence or
a cut after the finish reasons makes no answer: some relays write a finish reason into every chunk. A response is complete with
``response.completed`` (or ``incomplete``), a message with ``message_stop``.
"""

import msgspec

from stormbreak.llm.formats import Format, StreamAssembly
from stormbreak.llm.reading import ParsedResponse
from stormbreak.llm.stream_reader import StreamReader
from stormbreak.types import Verdict


class StreamAssembler(StreamReader):
    """Take the bytes of one answer as they come; `end` says what they were, and gives the whole."""

    _assembly: StreamAssembly

    def _follow(self, kind: Format) -> StreamAssembly:
        self._assembly = kind.assembly(self._choices)
        return self._assembly

    def end(self) -> tuple[ParsedResponse, bytes]:
        """Judge the stream that ended here, and give the body it amounts to.

        The body of a success is what the call would have got unstreamed; that of an error is the error as
        it came; there is none of a broken stream.
        """
        plain = self._plain_body()
        if plain is not None:
            return self._read(plain), plain
        failure = self._finish()
        return (failure, self._error_body) if failure else self._whole()

    def _whole(self) -> tuple[ParsedResponse, bytes]:
        try:
            body = msgspec.json.encode(self._assembly.result())
        except RecursionError:  # `end` may be called from deeper down than `feed` was
            return ParsedResponse(
                Verdict.BROKEN, detail="nested too deeply", maybe_processed=True
            ), b""
        reading = self._read(body)
        whole = reading.verdict is Verdict.OK or reading.finish_reason is not None
        return reading, body if whole else b""
