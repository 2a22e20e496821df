"""Judge an exception or a result of any function for a circuit breaker.

For functions that call an LLM API by any SDK, the status of an exception decides as in the
verdict table, so that a 429 or a 401 is not a failure, and its headers may have a Retry-After.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stormbreak.core.checks import require_type
from stormbreak.errors import CallError
from stormbreak.llm.response_verdict import verdict_of_status
from stormbreak.llm.retry_after import retry_after
from stormbreak.types import CANCELLED, Outcome, Verdict

OK = Outcome(Verdict.OK)
FAILED = Outcome(Verdict.SERVER_ERROR)
UNCOUNTED = Outcome(Verdict.INVALID)


def outcome_of(error: BaseException) -> Outcome | None:
    """Read the outcome of an exception of stormbreak, openai, httpx, requests or aiohttp.

    None if it has neither an outcome nor a status.
    """
    if isinstance(error, CallError):
        return error.ended.outcome
    response = getattr(error, "response", None)
    for place in (error, response):
        for name in ("status_code", "status"):
            status = getattr(place, name, None)
            if isinstance(status, int) and status >= 300:
                wait = _named_time(error, response, status)
                return Outcome(verdict_of_status(status), status=status, retry_after=wait)
    return None


def _named_time(error: BaseException, response: object, status: int) -> float | None:
    for place in (response, error):
        headers = getattr(place, "headers", None)
        if isinstance(headers, Mapping):
            lowered = {str(name).lower(): str(value) for name, value in headers.items()}
            return retry_after(lowered, status=status, received_at=time.time())
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Defines which exceptions and results are failures.

    An exception of a class in `failures` and not in `ignored` is a failure, unless `outcome_of` reads another outcome
    from it (with `outcome_of=None`, a 429 is a failure like any other). Other exceptions are not counted. A cancel, an
    interrupt or an exit is never a failure. `failed_result` returns True for a failed result.
    """

    failures: tuple[type[BaseException], ...] = (Exception,)
    ignored: tuple[type[BaseException], ...] = ()
    failed_result: Callable[[Any], bool] | None = None
    outcome_of: Callable[[BaseException], Outcome | None] | None = outcome_of

    def __post_init__(self) -> None:
        for name in ("failures", "ignored"):
            object.__setattr__(self, name, _classes(name, getattr(self, name)))
        for name in ("failed_result", "outcome_of"):
            check_function(name, getattr(self, name))

    def of_error(self, error: BaseException) -> Outcome:
        """Judge an exception.

        Raises:
            TypeError: `outcome_of` returned neither an Outcome nor None.
        """
        if not isinstance(error, Exception):
            return CANCELLED
        if isinstance(error, self.ignored) or not isinstance(error, self.failures):
            return UNCOUNTED
        read = None if self.outcome_of is None else self.outcome_of(error)
        if not isinstance(read, Outcome | None):
            raise TypeError(f"outcome_of must give an Outcome or None, got {type(read).__name__}")
        return FAILED if read is None else read

    def of_result(self, result: Any) -> Outcome:
        failed = self.failed_result is not None and self.failed_result(result)
        return FAILED if failed else OK


def check_function(name: str, given: object) -> None:
    """Reject anything but a function. Asynchronous functions are rejected, too: nothing would await them.

    Raises:
        ConfigurationError: it is neither None nor a function.
    """
    require_type(given is None or callable(given), f"{name} must be a function", given)
    waits = inspect.iscoroutinefunction(given)
    require_type(not waits, f"{name} must be a function that is not asynchronous", given)


def _classes(name: str, given: object) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple; a single class is accepted, as by `except`.

    Raises:
        ConfigurationError: an entry is not an exception class.
    """
    classes = tuple(given) if isinstance(given, Iterable) else (given,)
    for each in classes:
        known = isinstance(each, type) and issubclass(each, BaseException)
        require_type(known, f"{name} must hold exception classes", each)
    return classes
