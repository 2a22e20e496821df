"""What all who wait share: when to look unasked, and how a call ends whose client is drained."""

from stormbreak.core.ticket import Ticket
from stormbreak.types import CANCELLED, Ended, Rejection

LOOK_AGAIN = 5.0
"""Who waits in a queue looks again within one to two times so many seconds, unasked: the one that keeps the time
for all may be on a loop that is busy, or was closed without a word."""

DRAINED = Ended(
    CANCELLED._replace(rejection=Rejection("drain", "the client is drained")), stopped="drained"
)


def look_again(ticket: Ticket) -> float:
    """Seconds until the owner of `ticket` looks unasked; not the same for all, which would be a hiccup."""
    return LOOK_AGAIN * (1 + ticket.call.number % 64 / 64)
