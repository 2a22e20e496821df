"""The engine around generators and other iterables: retried before the first item, and never after it.

The attempt holds its slot until the iterator is exhausted, fails or is closed. While the consumer has an item, the
attempt does not run: calls of the consumer are separate calls. So are calls that the iterable makes when it is closed.

An iterator may be closed by the garbage collector, in any context, and in Python 3.11 even while a context variable is
being set: setting one then crashes the interpreter. So nothing here sets one when a generator is closed.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from stormbreak.functions.function_call import AsyncAttempts, Attempt, Attempts, NestedAttempt


def streaming(
    begin: Callable[[], Attempts], make: Callable[..., Any], clock: Callable[[], float]
) -> Callable[..., Generator[Any, Any, Any]]:
    """Return a generator function over the iterable that `make` returns.

    The deadline is checked between items. Values and exceptions of `send` and `throw` go to an inner generator.
    """

    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        for attempt in begin():
            with attempt:
                made = make(*args, **kwargs)
                try:
                    return (yield from _items(attempt, iter(made), clock))
                finally:
                    close = getattr(made, "close", None)
                    if close is not None:
                        close()
        return None  # not reached: the last attempt raises its error

    return guarded


def _items(
    attempt: Attempt | NestedAttempt, items: Any, clock: Callable[[], float]
) -> Generator[Any, Any, Any]:
    try:
        item = next(items)
        attempt.commit()
        while True:
            attempt.step_out()
            sent, thrown = None, None
            try:
                sent = yield item
            except GeneratorExit:
                attempt.cancel()
                raise
            except BaseException as error:  # noqa: BLE001 - passed to the inner generator
                thrown = error
            attempt.step_in()
            attempt.expect_next(clock(), None)
            item = _resumed(items, sent, thrown)
    except StopIteration as stop:
        return stop.value


def _resumed(items: Any, sent: Any, thrown: BaseException | None) -> Any:
    if thrown is not None:
        if not hasattr(items, "throw"):
            raise thrown
        return items.throw(thrown)
    return next(items) if sent is None else items.send(sent)


def async_streaming(
    begin: Callable[[], AsyncAttempts],
    make: Callable[..., Any],
    clock: Callable[[], float],
    stall: float | None,
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Return an asynchronous generator function. `make` returns the asynchronous iterable, or an awaitable of it.

    After the first item, it is cut off after `stall` seconds without an item, and at the deadline.
    """

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        async for attempt in begin():
            with attempt:
                made = make(*args, **kwargs)
                if inspect.isawaitable(made):
                    made = await made
                items = aiter(made)
                try:
                    item = await anext(items)
                    attempt.commit()
                    while True:
                        attempt.step_out()
                        sent, thrown = None, None
                        try:
                            sent = yield item
                        except GeneratorExit:
                            attempt.cancel()
                            raise
                        except BaseException as error:  # noqa: BLE001 - as above
                            thrown = error
                        attempt.step_in()
                        attempt.expect_next(clock(), stall)
                        item = await _async_resumed(items, sent, thrown)
                        attempt.disarm()
                except StopAsyncIteration:
                    return
                finally:
                    await _close(made)

    return guarded


async def _async_resumed(items: Any, sent: Any, thrown: BaseException | None) -> Any:
    if thrown is not None:
        if not hasattr(items, "athrow"):
            raise thrown
        return await items.athrow(thrown)
    return await (anext(items) if sent is None else items.asend(sent))


async def _close(made: Any) -> None:
    close = getattr(made, "aclose", None) or getattr(made, "close", None)
    if close is not None:
        closing = close()
        if inspect.isawaitable(closing):
            await closing
