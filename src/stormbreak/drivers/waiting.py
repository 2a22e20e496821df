"""What all who wait share: when to look unasked, and how a call ends whose client is drained or closed."""

from stormbreak.core.ticket import Ticket
from stormbreak.errors import ENDED_BY_CLOSING
from stormbreak.types import CANCELLED, GIVEN_UP, Ended, Rejection

LOOK_AGAIN = 5.0
"""Who waits in a queue looks again within one to two times so many seconds, unasked: the one that keeps the time
for all may be on a loop that is busy, or was closed without a word."""

DRAINED = Ended(
    CANCELLED._replace(rejection=Rejection("drain", "the client is drained")), stopped="drained"
)

CLOSED = Ended(
    CANCELLED._replace(rejection=Rejection(ENDED_BY_CLOSING, "the client is closed")),
    stopped=ENDED_BY_CLOSING,
)
"""Nothing was sent, or nothing is under way any more."""

CUT_SHORT = Ended(
    GIVEN_UP._replace(detail="the client was closed"),
    stopped=ENDED_BY_CLOSING,
    maybe_processed=1,
)
"""An attempt was under way, or a stream was read."""


def look_again(ticket: Ticket) -> float:
    """Seconds until the owner of `ticket` looks unasked; not the same for all, which would be a hiccup."""
    return LOOK_AGAIN * (1 + ticket.call.number % 64 / 64)
