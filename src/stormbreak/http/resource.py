"""Requests about the files and jobs of an API, such as batches: uploads from a source, downloads into a file.

They go only to the client's own address, and pass the queue, the limits and the circuit of a target without a model. No
tokens are reserved for them.
"""

from collections.abc import AsyncIterable
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from typing import BinaryIO, Protocol

from stormbreak.http.h1.connection import ResponseStream
from stormbreak.http.prepared_request import IDEMPOTENCY_KEY, PreparedRequest
from stormbreak.http.request import ACCEPT_ANY, Lookup
from stormbreak.http.response import Parsed, outcome_of, read_whole
from stormbreak.http.routing import Route
from stormbreak.http.sender import PreparedAttempt, Sender
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.response_verdict import request_id_of
from stormbreak.types import Outcome, Target, Verdict


class Upload(AsyncIterable[bytes], Protocol):
    """A body that is read piece by piece; each iteration, for the next attempt, starts at the beginning."""

    @property
    def size(self) -> int: ...


@dataclass(eq=False, repr=False)
class Resource(Lookup):
    """A request about a file or a job, which may change it. Every attempt has the same idempotency `key`.

    `dialect` selects the headers that the API expects; for Anthropic, those of its Messages API. A success is written
    into the file `into`, if given, from its current position on.
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
        """Prepare the request, once; raise ConfigurationError if the endpoint is not a path."""
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
        assert isinstance(self.template, Resource), "this sends only resources"
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
            # too large to search for repeated parts
            request = request._replace(body=b"")
        return outcome_of(result, request, api_key, learn=policy.rate_limit.learn_from_headers)


async def _download(stream: ResponseStream, into: BinaryIO) -> Outcome | None:
    """Write a body to a file; after a failure, restore the file."""
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
