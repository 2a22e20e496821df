"""`resilient`: the engine around any function, as a decorator, a call or a loop of attempts.

Nothing is retried unless the user names the failures; limits, circuit, queue, cooldown and deadline always apply. The
caller gets the function's own exceptions; only a rejected call or a timed-out attempt raises one of ours.
"""

import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from functools import partial, wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from stormbreak.core.checks import shown
from stormbreak.core.engine import Engine
from stormbreak.core.policy import Policy
from stormbreak.core.tenant import TenantLimits, check_tenants
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.chance import draw
from stormbreak.drivers.listeners import Observable
from stormbreak.drivers.scope import checked_text, current
from stormbreak.drivers.thread_driver import ParkedThread, ThreadDriver, Waiter
from stormbreak.errors import ConfigurationError
from stormbreak.fleet import fleet_for
from stormbreak.functions.function_call import AsyncAttempts, Attempts, FunctionCall, is_nested
from stormbreak.functions.iterators import async_streaming, streaming
from stormbreak.functions.outcome_rules import FailureRules, Predicate, Rules
from stormbreak.hidden_keys import quoted
from stormbreak.http.policy_in_force import in_force, tenants_in_force
from stormbreak.types import Call, Priority, Target

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

FUNCTION = Target("function", "")  # the target without a name


class Resilient(Observable):
    """One target and its engine; made by `resilient`.

    As a decorator it keeps the kind of a function: blocking, asynchronous, or a generator of either. One object serves
    many threads and event loops. A forked child starts with an empty state.
    """

    def __init__(  # noqa: PLR0913 - keyword arguments
        self,
        engine: Engine,
        rules: Rules,
        *,
        target: Target | None = None,
        priority: Priority | None = None,
        tenant: str = "",
        retry_exhausted: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = draw,
        parking: Callable[[], Waiter] = ParkedThread,
    ) -> None:
        self.engine = engine
        self._rules = rules
        self._target = target
        self._priority = engine.policy.priority if priority is None else priority
        self._tenant = tenant
        self._retry_exhausted = retry_exhausted
        self._clock = clock
        self._threads = ThreadDriver(engine, clock=clock, chance=chance, parking=parking)
        self._loops = AsyncioDriver(engine, clock=clock, chance=chance)

    @property
    def policy(self) -> Policy:
        return self.engine.policy

    @property
    def target(self) -> Target:
        """The target: the name of its circuit and queue."""
        if self._target is None:
            self._target = FUNCTION
        return self._target

    def __call__(self, function: Function) -> Function:
        """Decorate a function, an asynchronous one, or a generator of either kind.

        A target without a name gets the name of the first function.
        """
        if isinstance(function, staticmethod | classmethod):  # decorate the function within
            return cast("Function", type(function)(self(function.__func__)))
        if not callable(function):
            raise ConfigurationError(f"only a function can be decorated, got {shown(function)}")
        if self._target is None:
            self._target = Target(getattr(function, "__qualname__", FUNCTION.provider), "")
        guarded = wraps(function)(self._around(function))
        guarded.guarded_by = self  # type: ignore[attr-defined] # read by the doctor
        return cast("Function", guarded)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, with retries by the rules and the policy.

        A blocking function cannot be stopped: deadline and timeout are checked between attempts.

        Raises:
            RejectedError: no (further) call was made; it names the policy and when to come back.
            TypeError: `function` is asynchronous.
        """
        if is_nested(self.engine, self.target):
            return function(*args, **kwargs)
        attempts = Attempts(self._threads, self._begin)
        try:
            for attempt in attempts:
                with attempt:
                    result = function(*args, **kwargs)
                    if isinstance(result, CoroutineType):
                        result.close()
                        attempt.cancel()
                        raise TypeError("function is asynchronous: use async_call")  # noqa: TRY301
                    if attempt.judge(result):
                        break
        except BaseException:
            # After an interrupt between two attempts, the error of the first keeps the call alive until it is
            # collected.
            attempts.close()
            raise
        return result

    async def async_call(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Await `function`, with retries by the rules and the policy. A timeout cancels the attempt.

        Raises:
            RejectedError: no (further) call was made; it names the policy and when to come back.
            AttemptTimeoutError: the last attempt timed out.
        """
        if is_nested(self.engine, self.target):
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
        """Iterate over the iterable that `make` returns, such as a generator. It is retried only before its first item.

        The call begins with the first `next`. It holds its slot until the iterator ends or is closed.
        """
        return self._streaming(make)(*args, **kwargs)

    def async_stream(
        self, make: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, Any]:
        """Iterate over the asynchronous iterable that `make` returns, or an awaitable of it.

        Like `stream`; after its first item, the policy's `stall_timeout` bounds the time between items.
        """
        return self._async_streaming(make)(*args, **kwargs)

    def __iter__(self) -> Attempts:
        """Iterate over the attempts of one call, blocking between them: ``for attempt in ...: with attempt: ...``."""
        return Attempts(self._threads, self._begin)

    def __aiter__(self) -> AsyncAttempts:
        """Iterate over the attempts of one call: ``async for attempt in ...: with attempt: ...``."""
        return AsyncAttempts(self._loops, self._begin)

    @property
    def attempts(self) -> int:
        """The maximum number of attempts: 1 if nothing is retried."""
        return self.policy.retry.max_attempts if self._rules.retries else 1

    def isolate(self, *, duration: float | None = None) -> None:
        """Open the circuit manually, until `reset` or for `duration` seconds. From any thread.

        Raises:
            ConfigurationError: the policy has no circuit breaker, or `duration` is not a valid time.
        """
        if self.policy.breaker is None:
            raise ConfigurationError("isolate: the policy has no breaker")
        self._loops.between_steps(
            lambda engine, now: engine.isolate(self.target, now, duration=duration)
        )

    def reset(self) -> None:
        """Close the circuit manually and end the cooldown. Waiting calls start."""
        self._loops.between_steps(lambda engine, now: engine.reset(self.target, now))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if _is(inspect.isasyncgenfunction, function):
            return self._async_streaming(function)
        if _is(inspect.isgeneratorfunction, function):
            return self._streaming(function)

        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            return await self.async_call(function, *args, **kwargs)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return self.call(function, *args, **kwargs)

        return guarded_async if _is(inspect.iscoroutinefunction, function) else guarded

    def _streaming(self, make: Callable[..., Any]) -> Callable[..., Generator[Any, Any, Any]]:
        begin = partial(self._begin, streams=True)
        return streaming(lambda: Attempts(self._threads, begin), make, self._clock)

    def _async_streaming(self, make: Callable[..., Any]) -> Callable[..., AsyncGenerator[Any, Any]]:
        begin, stall = partial(self._begin, streams=True), self.policy.stall_timeout
        return async_streaming(lambda: AsyncAttempts(self._loops, begin), make, self._clock, stall)

    def _begin(self, *, streams: bool = False) -> FunctionCall | None:
        """Begin a call; return None if it is part of an outer attempt."""
        engine, target = self.engine, self.target
        if is_nested(engine, target):
            return None
        policy, here = engine.policy, current()
        deadline_at = None if policy.deadline is None else self._clock() + policy.deadline
        priority = self._priority if here.priority is None else here.priority
        tenant = self._tenant if here.tenant is None else here.tenant
        call = Call(
            engine.number(),
            target,
            deadline_at=deadline_at if here.deadline_at is None else here.earlier(deadline_at),
            patience=policy.patience,
            priority=priority,
            fail_fast=policy.fail_fast,
            max_attempts=here.max_attempts,
            tenant=tenant,
            streams=streams,
            delivers=True,
            labels=here.labels,
        )
        return FunctionCall(
            engine,
            target,
            self._threads.begin(call),
            self._rules,
            number=call.number,
            retry_exhausted=self._retry_exhausted,
        )


def resilient(  # noqa: PLR0913 - keyword arguments
    policy: Policy | str | None = None,
    *,
    on: FailureRules | None = None,
    failed_result: Predicate | None = None,
    retry_after: Callable[[Any], float | None] | None = None,
    target: Target | str | None = None,
    engine: Engine | None = None,
    priority: Priority | None = None,
    tenant: str = "",
    tenants: Mapping[str, TenantLimits] | None = None,
    retry_exhausted: bool = False,
) -> Resilient:
    """Put an engine around any function: see `Resilient` and docs/resilient.md.

    Args:
        policy: a `Policy`, the name of a preset or the path of a file; by default "interactive".
        on: the failures to retry: exception classes, functions of an exception, a mapping from classes to verdicts, or a
            `Judge`. By default nothing is retried.
        failed_result: returns True for a result that is a failure. If retries run out, the last result is returned.
        retry_after: returns the seconds to wait that an exception names, or None.
        target: the name of the dependency, for its circuit, limit and queue; by default the first function's name.
        engine: the engine of a client or another `Resilient`, to share its circuits, limits, budget and policy.
        priority: the priority in the queue; by default that of the policy.
        tenant: the tenant of the calls, for fair shares and limits.
        tenants: the limits of tenants, by name (see docs/scope.md).
        retry_exhausted: also retry a failure on which an inner call gave up.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    if engine is None:
        chosen = _checked(in_force(_policy("interactive" if policy is None else policy)))
        limits = _checked_tenants(tenants_in_force(tenants))
        engine = Engine(chosen, fleet=fleet_for(chosen), tenants=limits)
    elif not isinstance(engine, Engine):
        raise ConfigurationError(f"engine must be an engine, got {shown(engine)}")
    elif policy is not None:
        raise ConfigurationError(
            "give an engine or a policy, not both: an engine has its own policy"
        )
    elif tenants is not None:
        raise ConfigurationError("give an engine or tenants, not both: an engine has its own")
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
        raise ConfigurationError("resilient takes a policy, not a function: write @resilient(...)")
    if not isinstance(policy, Policy | str):
        raise ConfigurationError(f"policy must be a Policy or a preset, got {shown(policy)}")
    return policy


def _checked(policy: Policy) -> Policy:
    """Reject settings that have no meaning for a function."""
    if policy.fallback:
        raise ConfigurationError(
            "fallback must be empty around a function: there is no other target"
        )
    if policy.rate_limit.tpm is not None:
        raise ConfigurationError(
            f"rate_limit.tpm must be absent around a function, which has no tokens, got {policy.rate_limit.tpm:g}"
        )
    if policy.spend.acts:
        raise ConfigurationError(
            f"spend.max_usd must be absent around a function, whose cost is unknown, got {policy.spend.max_usd:g}"
        )
    return policy


def _checked_tenants(tenants: Mapping[str, TenantLimits]) -> Mapping[str, TenantLimits]:
    check_tenants(tenants)
    for name, limits in tenants.items():
        if limits.reserves:
            raise ConfigurationError(
                f"tenants.{name} must have no tpm and no spend around a function, which has no tokens"
            )
    return tenants


def _is(kind: Callable[[Any], bool], function: Callable[..., Any]) -> bool:
    """Whether a function or a callable object is of that kind; the `__call__` of a class does not count."""
    called = None if isinstance(function, type) else getattr(function, "__call__", None)  # noqa: B004
    return kind(function) or kind(called)
