"""What all who wait share: when to look unasked, and how a call ends whose client is drained or closed."""

from stormbreak.core.ticket import Ticket
from stormbreak.errors import ENDED_BY_CLOSING
from stormbreak.types import CANCELLED, CANCELLED_AFTER_SEND, CallResult, Rejection

LOOK_AGAIN = 5.0
"""Who waits in a queue looks again within one to two times so many seconds, unasked: the one that keeps the time
for all may be on a loop that is busy, or was closed without a word."""

DRAINED = CallResult(
    CANCELLED._replace(rejection=Rejection("drain", "the client is drained")), stopped="drained"
)

CLOSED = CallResult(
    CANCELLED._replace(rejection=Rejection(ENDED_BY_CLOSING, "the client is closed")),
    stopped=ENDED_BY_CLOSING,
)
"""Nothing was sent, or nothing is under way any more."""

STREAM_CUT = CallResult(
    CANCELLED_AFTER_SEND._replace(detail="the client was closed"),
    stopped=ENDED_BY_CLOSING,
    maybe_processed=1,
)
"""An attempt was under way, or a stream was read."""


def check_ticket(ticket: Ticket) -> float:
    """Seconds until the owner of `ticket` looks unasked; not the same for all, which would be a hiccup."""
    return LOOK_AGAIN * (1 + ticket.call.number % 64 / 64)
