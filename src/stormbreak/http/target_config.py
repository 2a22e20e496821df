"""The target config of a call: its policy, and where it may go. A call keeps what it began with.

A client has one target config, or takes one of a settings file at the time of the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stormbreak.core.fallback import Step, TargetOrder
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.connection import Wire
from stormbreak.http.local_answers import LocalAnswers
from stormbreak.http.request_body import wants
from stormbreak.http.routes import Routes, make_room
from stormbreak.types import FALLBACK, Target, Verdict


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """What calls to one target stand on. `model` is for payloads that name none, or in a pool for all of them.

    `weighs` says whether anybody who may be asked counts tokens. Steps `ahead` come before those of the policy.
    """

    policy: Policy
    routes: Routes
    at_hand: LocalAnswers
    model: str | None = None
    stream_on_wire: bool = False
    weighs: bool = False
    ahead: Callable[[str], Step] | None = None
    weight: float = 1.0

    @property
    def api_key(self) -> str | None:
        """What tells its answers from those of other keys."""
        return self.routes.endpoint.origin.api_key

    @property
    def base_url(self) -> str:
        """Where its calls go."""
        return self.routes.endpoint.origin.base_url

    @property
    def account(self) -> Target:
        """Its target, whatever the model."""
        endpoint = self.routes.endpoint
        return Target(endpoint.provider, "", endpoint.origin.key_digest, endpoint.name)

    def target(self, model: str) -> Target:
        """The target that calls for `model` go to first."""
        wanted = self.model or model if self.ahead is not None else model
        return self.routes.target(wanted)

    def steps(self, model: str) -> tuple[Step, ...]:
        """Where a call for `model` may go from there."""
        own = self.routes.steps(model) if self.policy.fallback else ()
        return own if self.ahead is None else (self.ahead(model), *own)


class TargetResolver(Protocol):
    """Where a client stands."""

    @property
    def first(self) -> TargetConfig:
        """What is told of the client when nobody asks for a call."""
        ...

    def footing(self, body: bytes) -> TargetConfig:
        """What a call with this body is to stand on."""
        ...

    def owned(self) -> tuple[LocalAnswers | Wire, ...]:
        """What is closed with the client."""
        ...


@dataclass(frozen=True, slots=True)
class SingleTarget:
    """The ground of a client that was made by hand: always the same."""

    first: TargetConfig

    def footing(self, _body: bytes) -> TargetConfig:
        """The one there is."""
        return self.first

    def owned(self) -> tuple[LocalAnswers | Wire, ...]:
        """All it has."""
        return self.first.at_hand, *self.first.routes.wires()


class Pool:
    """Target configs of which one is chosen for each call; the others are its first fallback.

    `order` puts the targets of a step into the order of their turns.
    """

    def __init__(
        self,
        members: tuple[TargetConfig, ...],
        on: tuple[Verdict, ...],
        after: float | None,
        choose: TargetOrder,
        order: Callable[[Step], tuple[Target, ...]],
    ) -> None:
        self.members = members
        self._on = frozenset(on)
        self._after = after
        self._choose = choose
        self._order = order
        self._steps: dict[str, Step] = {}

    def footing(self, body: bytes) -> TargetConfig:
        """That of the member whose turn it is."""
        if self._choose is TargetOrder.IN_ORDER:
            return self.members[0]
        model = wants(body).model
        first = self._order(self.step(model))[0]
        return next(member for member in self.members if member.target(model) == first)

    def step(self, model: str) -> Step:
        """All members, for a call for `model`; it leaves out where it was already."""
        step = self._steps.get(model)
        if step is None:
            targets = tuple((member.target(model), member.weight) for member in self.members)
            step = Step(self._on, self._after, FALLBACK, targets, self._choose)
            make_room(self._steps)
            self._steps[model] = step
        return step


def model_of(named: object, footing: TargetConfig) -> str:
    """The model of a payload, by the target config where it names none.

    Raises:
        ConfigurationError: neither names one.
    """
    model = named or footing.model
    if not isinstance(model, str) or not model:
        raise ConfigurationError("model is missing: name it in the payload or in the client")
    return model
