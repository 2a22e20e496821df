"""The attempts of one call, one after the other: what `for attempt in ...` and `async for attempt in ...` go through.

The engine decides between two of them. The call begins with the first.
"""

from collections.abc import Callable
from typing import Self, TypeAlias

from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.functions.attempt import Attempt, Course, NestedAttempt

StartCall: TypeAlias = Callable[[], Course | None]
"""Begins a call; None where it rides along."""


class _Loop:
    """What both kinds share."""

    __slots__ = ("_attempt", "_begin", "_function_call")

    def __init__(self, begin: StartCall) -> None:
        self._begin = begin
        self._function_call: Course | None = None
        self._attempt: Attempt | NestedAttempt | None = None

    def _next(self) -> Course | None:
        """The call, if a further attempt may be expected; it is begun if need be. None: then `_attempt` says why."""
        if self._attempt is None:
            self._function_call = self._begin()
            if self._function_call is None:
                self._attempt = NestedAttempt()
            return self._function_call
        if not self._attempt.over:
            if self._function_call is not None:
                self._function_call.handed.close()
            raise RuntimeError("the attempt was not made: write `with attempt:` in the loop")
        course = self._function_call
        return None if course is None or course.handed.flow is None else course

    def _nested_attempt(self) -> NestedAttempt | None:
        """The one attempt of a block that rides along; None once it was made."""
        attempt = self._attempt
        return attempt if isinstance(attempt, NestedAttempt) and not attempt.over else None

    def _end(self, course: Course) -> None:
        """End the loop, if it was not a result, by an exception: no further attempt may leave."""
        final = course.final()
        course.handed.forget()
        try:
            if final is not None:
                raise final
        finally:  # its traceback holds this frame
            del final


class Attempts(_Loop):
    """For code that blocks."""

    __slots__ = ("_driver",)

    def __init__(self, driver: ThreadDriver, begin: StartCall) -> None:
        super().__init__(begin)
        self._driver = driver

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Attempt | NestedAttempt:
        course = self._next()
        if course is None:
            riding = self._nested_attempt()
            if riding is None:
                raise StopIteration
            return riding
        send = self._driver.leave(course.handed)
        if send is None:
            self._end(course)
            raise StopIteration
        self._attempt = attempt = Attempt(course, send, cuts=False)
        return attempt


class AsyncAttempts(_Loop):
    """For asynchronous code: each may be cut by its timeout."""

    __slots__ = ("_driver",)

    def __init__(self, driver: AsyncioDriver, begin: StartCall) -> None:
        super().__init__(begin)
        self._driver = driver

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt | NestedAttempt:
        course = self._next()
        if course is None:
            riding = self._nested_attempt()
            if riding is None:
                raise StopAsyncIteration
            return riding
        send = await self._driver.leave(course.handed)
        if send is None:
            self._end(course)
            raise StopAsyncIteration
        self._attempt = attempt = Attempt(course, send, cuts=True)
        return attempt
