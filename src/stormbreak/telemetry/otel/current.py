"""Making a span the current one, for as long as an attempt is being sent, and no longer."""

from contextvars import ContextVar, Token

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, set_span_in_context

_HERE: ContextVar[None] = ContextVar("stormbreak.otel.here")


class Current:
    """A span as the current one, for one `with`.

    The block may be left in another context than it was entered in, as when the garbage collector ends a coroutine or a
    generator: the span was never current there, and nothing is put back.
    """

    __slots__ = ("_entered", "_here", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._here: Token[None] = _HERE.set(None)
        self._entered: Token[Context] = attach(set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        try:
            _HERE.reset(self._here)
        except ValueError:  # of another context
            return
        detach(self._entered)
