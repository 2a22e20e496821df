"""Requests about the files and jobs of an API, such as its batches: uploads that are read from a source, downloads into a file.

They go to the client's own address alone, and pass the queue, the limits and the circuit of a target without a model.
No tokens are reserved for them.
"""

from collections.abc import AsyncIterable
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from typing import BinaryIO, Protocol

from stormbreak.http.h1.connection import ResponseStream
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.request import ACCEPT_ANY, IDEMPOTENCY_KEY, Lookup
from stormbreak.http.response import Parsed, outcome_of, read_whole
from stormbreak.http.routing import Route
from stormbreak.http.sender import PreparedAttempt, Sender
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.response_verdict import request_id_of
from stormbreak.types import Outcome, Target, Verdict


class Upload(AsyncIterable[bytes], Protocol):
    """A body that is read piece by piece: each iteration starts at its beginning, for the next attempt."""

    @property
    def size(self) -> int: ...


@dataclass(eq=False, repr=False)
class Resource(Lookup):
    """A request about a file or a job, which may change it. Every attempt has the same idempotency `key`.

    `dialect` says which headers the API expects beside it: of Anthropic, those of its messages. A success is written
    into the file `into`, from its current position on, where there is one.
    """

    method: str
    endpoint: str
    _: KW_ONLY
    body: bytes | Upload = b""
    content_type: str = "application/json"
    dialect: Shape = Shape.RESOURCE
    key: str = ""
    into: BinaryIO | None = None
    prepared: dict[Target, tuple[Route, PreparedRequest]] = field(default_factory=dict, init=False)

    def prepare(self, route: Route) -> PreparedRequest:
        """Prepare the request, once; raise ConfigurationError if the endpoint is no path."""
        found = self.prepared.get(route.target)
        if found is not None:
            return found[1]
        headers = {**route.origin.headers[self.dialect], "Accept": ACCEPT_ANY}
        headers["Content-Type"] = self.content_type
        if self.key:
            headers[IDEMPOTENCY_KEY] = self.key
        if not isinstance(self.body, bytes):
            headers["Content-Length"] = str(self.body.size)
        request = PreparedRequest(
            route.origin.url_of(self.endpoint),
            headers,
            self.body,
            method=self.method,
            max_bytes=None if self.into is None else inf,
        )
        self.prepared[route.target] = route, request
        return request


class ResourceSender(Sender):
    """Sends a `Resource`."""

    async def _attempt(self, attempt: PreparedAttempt) -> Outcome:
        _, connection, request, policy, api_key = attempt
        stream = await connection.open(request)
        if isinstance(stream, Outcome):
            return stream
        assert isinstance(self.template, Resource), "no other is sent by this"
        into = self.template.into
        result: Parsed | Outcome
        if into is None or not stream.head.succeeded:
            result = await read_whole(stream, request)
        else:
            failure = await _download(stream, into)
            parsed = ParsedResponse(Verdict.OK, request_id=request_id_of(stream.head.headers))
            result = failure or (stream.head, parsed)
        if isinstance(result, Outcome):
            return result
        if not isinstance(request.body, bytes):
            # too large to look for what an error repeats of it
            request = request._replace(body=b"")
        return outcome_of(result, request, api_key, learn=policy.rate_limit.learn_from_headers)


async def _download(stream: ResponseStream, into: BinaryIO) -> Outcome | None:
    """Write a body to a file; after a failure the file is as it was before."""
    begin = into.tell()
    try:
        while piece := await stream.read():
            if isinstance(piece, Outcome):
                return piece
            into.write(piece)
        begin = into.tell()
    finally:
        stream.close()
        into.seek(begin)
        into.truncate()
    return None
