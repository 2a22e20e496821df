"""Play each kind of fault: turn a request and its answer into a script."""

from collections.abc import Callable, Mapping

from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.faults import bodies, connections, streams
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.scripts import Script

_PLAIN: Mapping[Kind, Callable[[FaultContext], Script]] = connections.FAULTS | bodies.FAULTS
_STREAMED: Mapping[Kind, Callable[[FaultContext], Script]] = connections.FAULTS | streams.FAULTS

GOOD: Mapping[Kind, Callable[[FaultContext], FaultContext]] = {
    Kind.PROSE: FaultContext.without_schema,
    Kind.EMPTY_CHOICES: FaultContext.without_choices,
}
"""Kinds that change the answer but not its transmission."""


def answered(play: FaultContext, kind: Kind | None) -> Script:
    """Make the script of an answer, plain or streamed, with the fault `kind`."""
    if kind is not None and kind in GOOD:
        play, kind = GOOD[kind](play), None
    if play.request.streamed:
        return streams.good(play) if kind is None else _STREAMED[kind](play)
    return bodies.good(play) if kind is None else _PLAIN[kind](play)
