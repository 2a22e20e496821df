"""Carry reports and answers between the engines of this process and one store, on a separate thread.

Only the thread uses the connection. It starts with the first membership, and again in a forked child.
"""

import _thread
import atexit
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit
from weakref import ref

from stormbreak.core.engine import Engine
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.drivers.chance import draw
from stormbreak.drivers.flow_stepper import Stepper, stepper_of
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import new_lock
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.lease_renewal import MIN_GAP, Membership, SpendMembership
from stormbreak.fleet.messages import Answer, Message, StoreError
from stormbreak.fleet.shared_limits import SharedLimits

TOGETHER = 0.02  # seconds; reports due within this time are sent together
LOOK = 1.0  # seconds between checks for engines that are gone
RETRY = 1.0  # seconds to the next try after a failure, plus up to half of it
GOODBYE = 0.5  # seconds for the last reports of a process

_log = logging.getLogger("stormbreak")


class Store(Protocol):
    """A store of scopes. One thread at a time uses it."""

    def beat(self, messages: Sequence[Message]) -> list[Answer]:
        """Process reports and answer each of them. After a StoreError each may have been processed or not."""

    def warnings(self) -> list[str]:
        """Return settings that make limits of this store less exact; may ask the store."""

    def close(self) -> None:
        """Close the connection, if there is one; the next beat opens another."""


def open_store(url: str) -> Store:
    """Return the store at `url` without connecting; raise ConfigurationError if a package is missing."""
    if url.startswith("parent:"):
        from stormbreak.fleet.parent_store import ParentClient  # noqa: PLC0415 - each store loads its own

        return ParentClient(url)
    from stormbreak.fleet.valkey import ValkeyStore  # noqa: PLC0415

    return ValkeyStore(url)


class Due(NamedTuple):
    """A report, the time it was written, and its membership."""

    member: Membership
    stepper: Stepper
    sent_at: float
    message: Message


class StoreThread:
    """The carrier of one store. Memberships write the reports and apply the answers."""

    def __init__(self, url: str) -> None:
        self.place = _place(url)
        self._url = url
        self._begin()
        reset_in_child(self._begin)
        atexit.register(self.leave)

    def _begin(self) -> None:
        self._store = open_store(self._url)  # here, since loading its package takes a while
        self._members: dict[Membership, ref[Engine]] = {}
        self._orphans: list[Membership] = []  # their engines are gone
        # Reentrant, unlike an Event: the garbage collector may end a call on any thread, at any line.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._runs = False
        self._leaving = False
        self._sharing: bool | None = None  # None: not known yet
        self._since = time.time()
        self._restarts = 0

    # ------------------------------------------------------------ from any thread, within a step

    def add(self, engine: Engine, membership: Membership) -> None:
        # When the engine is collected, the thread checks at once.
        self._members[membership] = ref(engine, lambda _: self._woken.put(None))
        self.wake(membership)

    def remove(self, membership: Membership) -> None:
        self._members.pop(membership, None)

    def wake(self, membership: Membership) -> None:
        membership.next_at = -inf
        self._woken.put(None)
        if not self._runs:
            self._runs = True
            _thread.start_new_thread(self._run, ())  # `Thread.start` would wait within the step

    def snapshot(self) -> Mapping[str, Any]:
        """Return whether the store answers, and since when; False until the first answer."""
        members = [each.members for each in tuple(self._members)]
        return {
            "store": self.place,
            "sharing": bool(self._sharing),
            "since": self._since,
            "members": max(members, default=0),
        }

    def leave(self) -> None:
        """Give back the leases at the end of the process, if the store answers soon."""
        if self._runs and self._sharing and (self._members or self._orphans):
            self._leaving = True
            self._woken.put(None)
            with suppress(Empty):
                self._ended.get(timeout=GOODBYE)

    # ------------------------------------------------------------ on the thread

    def _run(self) -> None:
        store = self._store
        while not self._leaving:
            with suppress(Empty):
                self._woken.get(timeout=self._seconds_to_next())
                while True:
                    self._woken.get_nowait()
            if not self._leaving:
                try:
                    self._beat(store)
                except Exception:  # noqa: BLE001 - calls need the thread after any error
                    _log.exception("fleet store %s: a report failed", self.place)
                    time.sleep(RETRY)
                time.sleep(MIN_GAP)
        self._orphans += self._members  # whether or not a driver still runs their engines
        self._send_last_reports(store)
        store.close()
        self._ended.put(None)

    def _seconds_to_next(self) -> float:
        """Return the seconds until the next report, at most LOOK."""
        left = LOOK
        for member, stepper in self._alive():
            left = min(left, member.next_at - stepper.clock())
        return max(0.0, left)

    def _alive(self) -> list[tuple[Membership, Stepper]]:
        """Return the memberships of live engines."""
        found = []
        for member, known in list(self._members.items()):
            engine = known()
            stepper = None if engine is None else stepper_of(engine)
            if engine is None:
                self._members.pop(member, None)
                self._orphans.append(member)
            elif member.is_gone and member.next_at == inf:
                self._members.pop(member, None)  # it holds nothing
            elif stepper is not None:
                found.append((member, stepper))
        return found

    def _beat(self, store: Store) -> None:
        if self._orphans:
            self._send_last_reports(store)
        alive = self._alive()
        due = self._due(alive, lambda member: member.next_at)
        if due:
            due += self._due(alive, lambda member: member.along_at, along=True)
        if all(member.is_away for member in self._members):
            store.close()
        if not due:
            return
        try:
            answers = store.beat([each.message for each in due])
        except Exception as error:  # noqa: BLE001 - calls must not wait for any error
            self._note(store, str(error) if isinstance(error, StoreError) else type(error).__name__)
            after = RETRY * (1 + draw() / 2)
            for member, stepper, *_ in due:
                stepper.between_steps(partial(_fail, member, after))
            return
        for (member, stepper, sent_at, _), answer in zip(due, answers, strict=True):
            stepper.between_steps(partial(_apply, member, answer, sent_at))
        self._note(store, None)

    def _due(
        self,
        alive: Iterable[tuple[Membership, Stepper]],
        at: Callable[[Membership], float],
        *,
        along: bool = False,
    ) -> list[Due]:
        """Return the reports of the members whose time has come."""
        due = []
        for member, stepper in alive:
            if at(member) <= stepper.clock() + TOGETHER:
                message = stepper.between_steps(partial(_message, member, along=along))
                if message is not None:
                    due.append(Due(member, stepper, *message))
                if member.is_gone:
                    self._members.pop(member, None)
        return due

    def _send_last_reports(self, store: Store) -> None:
        """Give back the leases of engines that are gone."""
        orphans = [member for member in self._orphans if not member.is_away]
        self._orphans = []
        now = time.monotonic()  # as the clocks of engines in real time
        messages = [
            Message(member.scope, member.name, member.report(now, leaves=True))
            for member in orphans
        ]
        if messages:
            with suppress(StoreError):  # the leases then end by time
                store.beat(messages)

    def _note(self, store: Store, error: str | None) -> None:
        """Log one line when the store connects, disconnects, or has lost all data."""
        members = tuple(self._members)
        restarts = sum(member.restarts for member in members)
        if (error is None) != self._sharing:
            self._sharing, self._since = error is None, time.time()
            if error is None:
                count = max((member.members for member in members), default=1)
                _log.info("fleet store %s: sharing, members: %d", self.place, count)
                if any(isinstance(member, SpendMembership) for member in members):
                    for warning in store.warnings():
                        _log.warning("fleet store %s: %s", self.place, warning)
            else:
                _log.warning("fleet store %s: disconnected, %s", self.place, error)
        if restarts > self._restarts:
            _log.warning(
                "fleet store %s: restarted empty; money that only lost members knew of is not counted",
                self.place,
            )
        self._restarts = restarts


def _message(
    member: Membership, _: Engine, now: float, *, along: bool
) -> tuple[float, Message] | None:
    report = member.due_report(now, along=along)
    return None if report is None else (now, Message(member.scope, member.name, report))


def _apply(member: Membership, answer: Answer, sent_at: float, _: Engine, now: float) -> None:
    member.apply(answer, sent_at, now)


def _fail(member: Membership, after: float, _: Engine, now: float) -> None:
    member.fail(now, after)


def _place(url: str) -> str:
    """Return the URL without its user."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


# ---------------------------------------------------------------- one for each store


_making = new_lock()
_threads: dict[str, StoreThread] = {}


def _thread_for(url: str) -> StoreThread:
    known = _threads.get(url)
    if known is None:
        with _making:  # two first threads must not get a store each
            known = _threads.get(url)
            if known is None:
                known = _threads[url] = StoreThread(url)
    return known


def leave(url: str) -> None:
    """Give back all leases of this process from the store at `url`, when the process stops using it."""
    _thread_for(url).leave()


def shared_limits(urls: Iterable[str]) -> SharedLimits:
    """Make the fleet of an engine that runs in real time; raise ConfigurationError if the package of a store is missing."""
    for url in urls:
        _thread_for(url)  # loads its package, which takes a while
    return SharedLimits(_carrier_for, draw)


def _carrier_for(policy: FleetPolicy) -> StoreThread:
    if policy.url is None:
        raise ConfigurationError("fleet.url must name a store, got none")
    return _thread_for(policy.url)
