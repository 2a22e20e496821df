"""What an exception or a result of a user's function means, by the rules that the user gave.

Rules are exception classes, functions that look at an exception, a mapping from classes to verdicts, or a `Judge`.
Whatever no rule speaks of is not retried and tells the breaker nothing. With no rule at all nothing is retried, and
what a `Judge` calls a failure counts as one.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeAlias

from stormbreak.core.checks import shown
from stormbreak.core.tally import COUNTABLE
from stormbreak.drivers.judge import FAILED, OK, UNCOUNTED, Judge, check_function, outcome_of
from stormbreak.errors import ConfigurationError
from stormbreak.types import Outcome, Verdict

Said: TypeAlias = bool | Verdict | Outcome | None
"""True: a failure, read by what the exception carries. False, None: none of this rule's. Else: just this."""

Look: TypeAlias = Callable[[Any], Said]
Rule: TypeAlias = type[BaseException] | Look
FailureRules: TypeAlias = (
    Rule | tuple[Rule, ...] | Mapping[type[BaseException], Said | Look] | Judge
)

_FORMS = (
    "an exception class, a function of an exception, a tuple of these, a mapping from classes to verdicts, "
    "or a Judge"
)


class Rules:
    """All rules of one user, in one form."""

    __slots__ = ("_failed_result", "_of_error", "_retry_after")

    def __init__(
        self,
        on: FailureRules | None,
        failed_result: Look | None = None,
        retry_after: Callable[[Any], float | None] | None = None,
    ) -> None:
        for name, given in ("failed_result", failed_result), ("retry_after", retry_after):
            check_function(name, given)
        if failed_result is None and isinstance(on, Judge):
            failed_result = on.failed_result
        self._of_error = _compiled(on)
        self._failed_result = failed_result
        self._retry_after = retry_after

    @property
    def retries(self) -> bool:
        """Whether there is anything that they retry."""
        return self._of_error is not _must_not_repeat or self._failed_result is not None

    def of_error(self, error: Exception) -> Outcome:
        """Judge what was raised; the outcome carries it."""
        outcome = self._of_error(error)
        wait = outcome.retry_after
        if self._retry_after is not None and outcome is not UNCOUNTED:
            named = self._retry_after(error)
            if named is not None and isfinite(named):
                wait = max(0.0, named)
        # A rejection elsewhere is none of this call's, nor is what was committed there.
        return outcome._replace(error=error, retry_after=wait, rejection=None, committed=False)

    def of_result(self, result: Any) -> Outcome:
        """Judge what was returned."""
        if self._failed_result is None:
            return OK
        said = self._failed_result(result)
        return OK if not said else _outcome(said, FAILED)


def _compiled(on: FailureRules | None) -> Callable[[Exception], Outcome]:
    if on is None:
        return _must_not_repeat
    if isinstance(on, Judge):
        return on.of_error
    if isinstance(on, Mapping):
        return _by_class(on)
    rules = on if isinstance(on, tuple) else (on,)
    for rule in rules:
        if not _is_rule(rule):
            raise ConfigurationError(f"on must be {_FORMS}, got {shown(rule)}")
    return _any_of(rules)


def _is_rule(rule: object) -> bool:
    return issubclass(rule, BaseException) if isinstance(rule, type) else callable(rule)


def _must_not_repeat(error: Exception) -> Outcome:
    return Judge().of_error(error)._replace(forbidden=True)


def _any_of(rules: tuple[Rule, ...]) -> Callable[[Exception], Outcome]:
    classes = tuple(rule for rule in rules if isinstance(rule, type))
    looks = tuple(rule for rule in rules if not isinstance(rule, type))

    def judge(error: Exception) -> Outcome:
        if isinstance(error, classes):
            return _read(error)
        return _by_predicate(looks, error)

    return judge


def _by_predicate(looks: tuple[Look, ...], error: Exception) -> Outcome:
    for look in looks:
        said = look(error)
        if said:
            return _outcome(said, _read(error))
    return UNCOUNTED


def _by_class(table: Mapping[type[BaseException], Said | Look]) -> Callable[[Exception], Outcome]:
    for kind, said in table.items():
        if not (_is_rule(kind) and isinstance(kind, type)):
            raise ConfigurationError(f"on must name exception classes, got {shown(kind)}")
        if not callable(said):
            _outcome(said, FAILED)

    def judge(error: Exception) -> Outcome:
        for kind in type(error).__mro__:  # the nearest class speaks
            if kind in table:
                said = table[kind]
                return _outcome(said(error) if callable(said) else said, _read(error))
        return UNCOUNTED

    return judge


def _read(error: Exception) -> Outcome:
    """What the exception says of itself, or that it is a failure."""
    read = outcome_of(error)
    return FAILED if read is None else read


def _outcome(said: Said, read: Outcome) -> Outcome:
    """Make an outcome of what a rule said; status and named time are those that were read.

    Raises:
        ConfigurationError: it said something that no failure can be.
    """
    if said is None or isinstance(said, bool):
        return read if said else UNCOUNTED
    outcome = said if isinstance(said, Outcome) else read._replace(verdict=said)
    if outcome.verdict not in COUNTABLE:
        raise ConfigurationError(
            f"a rule must say a bool, or the verdict of a failure, got {shown(said)}"
        )
    return outcome
