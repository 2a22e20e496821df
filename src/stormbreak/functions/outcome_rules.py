"""The user's rules: which exceptions and results of a function are failures.

An exception without a rule is not retried and does not count for the breaker. Without any rule nothing is retried, and
the failures of a `Judge` count.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeAlias

from stormbreak.core.breaker_policy import COUNTABLE
from stormbreak.core.checks import shown
from stormbreak.drivers.judge import FAILED, OK, UNCOUNTED, Judge, check_function, outcome_of
from stormbreak.errors import ConfigurationError
from stormbreak.types import Outcome, Verdict

RuleResult: TypeAlias = bool | Verdict | Outcome | None
"""Result of a rule. True: a failure, with the exception's own verdict. False, None: the rule does not apply."""

Predicate: TypeAlias = Callable[[Any], RuleResult]
Rule: TypeAlias = type[BaseException] | Predicate
FailureRules: TypeAlias = (
    Rule | tuple[Rule, ...] | Mapping[type[BaseException], RuleResult | Predicate] | Judge
)

_FORMS = (
    "an exception class, a function of an exception, a tuple of these, a mapping from classes to verdicts, "
    "or a Judge"
)


class Rules:
    """The rules of one `resilient`."""

    __slots__ = ("_failed_result", "_of_error", "_retry_after")

    def __init__(
        self,
        on: FailureRules | None,
        failed_result: Predicate | None = None,
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
        """Whether the rules retry anything."""
        return self._of_error is not _must_not_repeat or self._failed_result is not None

    def of_error(self, error: Exception) -> Outcome:
        """Judge an exception; the outcome refers to it."""
        outcome = self._of_error(error)
        wait = outcome.retry_after
        if self._retry_after is not None and outcome is not UNCOUNTED:
            named = self._retry_after(error)
            if named is not None and isfinite(named):
                wait = max(0.0, named)
        # A rejection or a commit of an inner call says nothing about this call.
        return outcome._replace(error=error, retry_after=wait, rejection=None, committed=False)

    def of_result(self, result: Any) -> Outcome:
        answer = None if self._failed_result is None else self._failed_result(result)
        return _outcome(answer, FAILED) if answer else OK


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
    predicates = tuple(rule for rule in rules if not isinstance(rule, type))

    def judge(error: Exception) -> Outcome:
        if isinstance(error, classes):
            return _read(error)
        for predicate in predicates:
            if answer := predicate(error):
                return _outcome(answer, _read(error))
        return UNCOUNTED

    return judge


def _by_class(
    table: Mapping[type[BaseException], RuleResult | Predicate],
) -> Callable[[Exception], Outcome]:
    for kind, answer in table.items():
        if not (_is_rule(kind) and isinstance(kind, type)):
            raise ConfigurationError(f"on must name exception classes, got {shown(kind)}")
        if not callable(answer):
            _outcome(answer, FAILED)

    def judge(error: Exception) -> Outcome:
        for kind in type(error).__mro__:  # the nearest class counts
            if kind in table:
                answer = table[kind]
                return _outcome(answer(error) if callable(answer) else answer, _read(error))
        return UNCOUNTED

    return judge


def _read(error: Exception) -> Outcome:
    """Return the outcome that the exception carries, else a failure."""
    read = outcome_of(error)
    return FAILED if read is None else read


def _outcome(answer: RuleResult, read: Outcome) -> Outcome:
    """Make an outcome from a rule's answer and the status and retry-after in `read`.

    Raises ConfigurationError if the answer is not a failure.
    """
    if answer is None or isinstance(answer, bool):
        return read if answer else UNCOUNTED
    outcome = answer if isinstance(answer, Outcome) else read._replace(verdict=answer)
    if outcome.verdict not in COUNTABLE:
        raise ConfigurationError(
            f"a rule must return a bool or the verdict of a failure, got {shown(answer)}"
        )
    return outcome
