"""`resilient`: the engine around any function, as a decorator, a call or a loop of attempts.

Nothing is retried unless the user says what; limits, circuit, queue, cooldown and deadline hold in any case. What the
function raises reaches the caller as itself. Only where nothing could be sent, or where an attempt was cut by its
timeout, is the error one of ours.
"""

import inspect
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial, wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from stormbreak.core.checks import shown
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.target_state import Listener
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.listeners import Attached, subscribe
from stormbreak.drivers.scope import checked_text, current
from stormbreak.drivers.thread_driver import ParkedThread, ThreadDriver, Waiter
from stormbreak.errors import ConfigurationError
from stormbreak.functions.attempt import Course
from stormbreak.functions.attempt_loop import AsyncAttempts, Attempts
from stormbreak.functions.iterators import async_streaming, streaming
from stormbreak.functions.nesting import HELD, rides
from stormbreak.functions.outcome_rules import FailureRules, Look, Rules
from stormbreak.http.environment import in_force
from stormbreak.key_patterns import quoted
from stormbreak.types import Call, Priority, Target

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

FUNCTION = Target("function", "")
"""What a target is called that has no name."""


class Resilient:
    """One target, and what is to be done about its trouble; made by `resilient`.

    As a decorator it keeps a function's kind: blocking, asynchronous, a generator of either. One object serves many
    threads and event loops; in a forked child it begins anew.
    """

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        engine: Engine,
        rules: Rules,
        *,
        target: Target | None = None,
        priority: Priority | None = None,
        tenant: str = "",
        retry_exhausted: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        parking: Callable[[], Waiter] = ParkedThread,
    ) -> None:
        self.engine = engine
        self._rules = rules
        self._target = target
        self._priority = engine.policy.priority if priority is None else priority
        self._tenant = tenant
        self._retry_given_up = retry_exhausted
        self._clock = clock
        self._threads = ThreadDriver(engine, clock=clock, chance=chance, parking=parking)
        self._loops = AsyncioDriver(engine, clock=clock, chance=chance)

    @property
    def policy(self) -> Policy:
        """The policy of its engine."""
        return self.engine.policy

    @property
    def target(self) -> Target:
        """What its circuit and its queue are called."""
        if self._target is None:
            self._target = FUNCTION
        return self._target

    def __call__(self, function: Function) -> Function:
        """Decorate a function, an asynchronous one, or a generator of either kind.

        A target without a name is called as the first function it decorates.
        """
        if isinstance(function, staticmethod | classmethod):  # what it makes a method of is guarded
            return cast("Function", type(function)(self(function.__func__)))
        if not callable(function):
            raise ConfigurationError(f"only a function can be decorated, got {shown(function)}")
        if self._target is None:
            self._target = Target(getattr(function, "__qualname__", FUNCTION.provider), "")
        guarded = wraps(function)(self._around(function))
        guarded.guarded_by = self  # type: ignore[attr-defined] # for whoever asks what is around it: the doctor
        return cast("Function", guarded)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, again where the rules and the policy say so.

        Nothing can stop a function that blocks: deadline and timeout are looked at between attempts.

        Raises:
            RejectedError: nothing was called (any more); says which policy refused and when to come back.
            TypeError: `function` is asynchronous.
        """
        if self._joins_outer_attempt():
            return function(*args, **kwargs)
        for attempt in Attempts(self._threads, self._begin):
            with attempt:
                result = function(*args, **kwargs)
                if isinstance(result, CoroutineType):
                    result.close()
                    attempt.cancel()
                    raise TypeError("an asynchronous function needs async_call")
                if attempt.judge(result):
                    break
        return result

    async def async_call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Await `function`, again where the rules and the policy say so. An attempt is cancelled when its time is over.

        Raises:
            RejectedError: nothing was called (any more); says which policy refused and when to come back.
            AttemptTimeoutError: the last attempt was cancelled when its time was over.
        """
        if self._joins_outer_attempt():
            return await function(*args, **kwargs)
        async for attempt in AsyncAttempts(self._loops, self._begin):
            with attempt:
                result = await function(*args, **kwargs)
                if attempt.judge(result):
                    break
        return result

    def stream(
        self, make: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Generator[Any, Any, Any]:
        """Go through what `make` makes, such as a generator; it is made again only if it fails before its first item.

        The call begins when the first item is asked for. It holds its place until the end, or until it is closed.
        """
        return self._streaming(make)(*args, **kwargs)

    def async_stream(
        self, make: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, Any]:
        """Go through what `make` makes, or what that can be awaited for: an asynchronous generator, or an iterable.

        As `stream`; behind its first item a silence as long as the policy's `stall_timeout` ends it.
        """
        return self._async_streaming(make)(*args, **kwargs)

    def __iter__(self) -> Attempts:
        """The attempts of one call: ``for attempt in ...: with attempt: ...``, which blocks between them."""
        return Attempts(self._threads, self._begin)

    def __aiter__(self) -> AsyncAttempts:
        """The attempts of one call: ``async for attempt in ...: with attempt: ...``."""
        return AsyncAttempts(self._loops, self._begin)

    def subscribe(self, listener: Listener) -> Attached:
        """Have `listener` called with every event of the engine, until what is returned is detached.

        It may not make calls on it.
        """
        return subscribe(self.engine, listener)

    def snapshot(self) -> dict[str, Any]:
        """What stands where: every target's circuit, queue, limit and cooldown, and the retry budget."""
        return self._loops.snapshot()

    @property
    def attempts(self) -> int:
        """How often a call may be made: once where nothing is retried."""
        return self.policy.retry.max_attempts if self._rules.retries else 1

    def isolate(self, *, duration: float | None = None) -> None:
        """Open the circuit by hand, until `reset` or for `duration` seconds; from any thread.

        Raises:
            ConfigurationError: the policy has no circuit breaker, or `duration` is no span of time.
        """
        if self.policy.breaker is None:
            raise ConfigurationError("the policy has no breaker: no circuit can be isolated")
        self._loops.by_hand(lambda engine, now: engine.isolate(self.target, now, duration=duration))

    def reset(self) -> None:
        """Close the circuit by hand, and lift the cooldown; who waited leaves."""
        self._loops.by_hand(lambda engine, now: engine.reset(self.target, now))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if _is(inspect.isasyncgenfunction, function):
            return self._async_streaming(function)
        if _is(inspect.isgeneratorfunction, function):
            return self._streaming(function)
        if _is(inspect.iscoroutinefunction, function):

            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                return await self.async_call(function, *args, **kwargs)

            return guarded_async

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return self.call(function, *args, **kwargs)

        return guarded

    def _streaming(self, make: Callable[..., Any]) -> Callable[..., Generator[Any, Any, Any]]:
        begin = partial(self._begin, streams=True)
        return streaming(lambda: Attempts(self._threads, begin), make, self._clock)

    def _async_streaming(self, make: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, Any]]:
        begin, stall = partial(self._begin, streams=True), self.policy.stall_timeout
        return async_streaming(lambda: AsyncAttempts(self._loops, begin), make, self._clock, stall)

    def _joins_outer_attempt(self) -> bool:
        return HELD.get() is not None and rides(self.engine, self.target)

    def _begin(self, *, streams: bool = False) -> Course | None:
        """Begin a call, unless it is a part of one that is under way here."""
        if self._joins_outer_attempt():
            return None
        engine, target = self.engine, self.target
        policy, here = engine.policy, current()
        deadline_at = None if policy.deadline is None else self._clock() + policy.deadline
        priority = self._priority if here.priority is None else here.priority
        tenant = self._tenant if here.tenant is None else here.tenant
        call = Call(
            engine.number(), target, here.earlier(deadline_at), policy.patience, priority, policy.fail_fast,
            None, here.most, tenant, streams, 0, True, labels=here.labels,
        )  # fmt: skip
        return Course(
            engine,
            target,
            self._threads.hand(call),
            self._rules,
            number=call.number,
            retries_given_up=self._retry_given_up,
        )


def resilient(  # noqa: PLR0913 - keywords are cheap to read
    policy: Policy | str | None = None,
    *,
    on: FailureRules | None = None,
    failed_result: Look | None = None,
    retry_after: Callable[[Any], float | None] | None = None,
    target: Target | str | None = None,
    engine: Engine | None = None,
    priority: Priority | None = None,
    tenant: str = "",
    retry_exhausted: bool = False,
) -> Resilient:
    """Put an engine around any function: see `Resilient` for how, and docs/resilient.md.

    Args:
        policy: a `Policy` or the name of a preset; by default "interactive".
        on: what is a failure to be retried: exception classes, functions of an exception, a mapping from classes to
            verdicts, or a `Judge`. Nothing is retried by default.
        failed_result: tells a result that is a failure. If retries run out, the last one is returned.
        retry_after: the seconds to wait that an exception names, if it does.
        target: what is called, by name: its circuit, its limit and its queue. By default the first function decorated.
        engine: that of a client or of another `Resilient`, to share its circuits, limits and budget; its policy holds.
        priority: whose calls are served first when a queue stands; by default that of the policy.
        tenant: on whose behalf the calls are, where tenants share.
        retry_exhausted: retry also what a call inside has retried for as long as it could.

    Raises:
        ConfigurationError: names what cannot be right.
    """
    if engine is None:
        engine = Engine(_checked(in_force(_policy("interactive" if policy is None else policy))))
    elif not isinstance(engine, Engine):
        raise ConfigurationError(f"engine must be an engine, got {shown(engine)}")
    elif policy is not None:
        raise ConfigurationError("an engine has its policy: name one of engine and policy")
    if priority is not None and not isinstance(priority, Priority):
        raise ConfigurationError(f"priority must be a Priority, got {quoted(str(priority))}")
    return Resilient(
        engine,
        Rules(on, failed_result, retry_after),
        target=_target(target),
        priority=priority,
        tenant=checked_text("tenant", tenant),
        retry_exhausted=retry_exhausted,
    )


def _target(target: object) -> Target | None:
    if target is None or isinstance(target, Target):
        return target
    if not isinstance(target, str) or not target:
        raise ConfigurationError(f"target must be a name or a Target, got {shown(target)}")
    return Target(target, "")


def _policy(policy: object) -> Policy | str:
    if callable(policy):
        raise ConfigurationError("resilient takes a policy, no function: write @resilient(...)")
    if not isinstance(policy, Policy | str):
        raise ConfigurationError(f"policy must be a Policy or a preset, got {shown(policy)}")
    return policy


def _checked(policy: Policy) -> Policy:
    """Refuse what nobody would heed around a function."""
    if policy.fallback:
        raise ConfigurationError("fallback must be empty around a function: it has nowhere to go")
    if policy.rate_limit.tpm is not None:
        raise ConfigurationError(
            f"rate_limit.tpm must be absent around a function: nobody counts tokens, got {policy.rate_limit.tpm:g}"
        )
    if policy.spend.acts:
        raise ConfigurationError(
            f"spend.max_usd must be absent around a function: nobody knows what it costs, got {policy.spend.max_usd:g}"
        )
    return policy


def _is(kind: Callable[[Any], bool], function: Callable[..., Any]) -> bool:
    """Whether a function, or an object that is called like one, is of that kind; a class makes an object, whatever that is."""
    called = None if isinstance(function, type) else getattr(function, "__call__", None)  # noqa: B004
    return kind(function) or kind(called)
