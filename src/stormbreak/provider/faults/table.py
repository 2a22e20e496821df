"""Which script plays which kind of trouble."""

from collections.abc import Callable, Mapping

from stormbreak.provider.faults import bodies, streams, wires
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.kinds import Kind
from stormbreak.provider.scripts import Script

_PLAIN: Mapping[Kind, Callable[[FaultContext], Script]] = wires.FAULTS | bodies.FAULTS
_STREAMED: Mapping[Kind, Callable[[FaultContext], Script]] = wires.FAULTS | streams.FAULTS


def answered(play: FaultContext, kind: Kind | None) -> Script:
    """Play an answer, plain or streamed, spoilt as `kind` says."""
    if play.asked.streamed:
        return streams.good(play) if kind is None else _STREAMED[kind](play)
    return bodies.good(play) if kind is None else _PLAIN[kind](play)
