"""For tests of applications on LLM APIs: the embedded provider as a pytest fixture or context manager, and storms.

pytest loads this module whenever stormbreak is installed, so it imports no other stormbreak module until it is used.
All but the fixture works without pytest, for example in a notebook. If a test fails with the exception of an SDK,
pytest shows the attempts below it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from stormbreak.core.policy import Policy
    from stormbreak.provider.in_thread import RunningProvider
    from stormbreak.provider.scenario import Scenario
    from stormbreak.storm.policies import NamedPolicy
    from stormbreak.storm.result import Result
    from stormbreak.storm.survey import Survey

__all__ = ["ProviderFactory", "answer_text", "serve", "storm", "stormbreak_provider", "survey"]


class ProviderFactory(Protocol):
    """Starts providers that live as long as the test."""

    def __call__(
        self,
        scenario: str | Path | Scenario = "calm",
        *,
        seed: int = 0,
        speed: float | None = None,
        answers: Mapping[str, str | Mapping[str, Any]] | None = None,
    ) -> RunningProvider:
        """Start a provider: a scenario by name, by path, as TOML text or as a value; `answers` as in `serve`."""


def serve(
    scenario: str | Path | Scenario = "calm",
    *,
    seed: int = 0,
    speed: float | None = None,
    port: int = 0,
    answers: Mapping[str, str | Mapping[str, Any]] | None = None,
) -> AbstractContextManager[RunningProvider]:
    """Play a scenario on 127.0.0.1 until the block ends.

    Args:
        scenario: a name, a path, TOML text (anything with a line break in it) or a value.
        seed: the same seed gives the same faults.
        speed: scenario seconds in one real second; by default that of the scenario.
        port: 0 picks a free one.
        answers: its answers, by a text in the newest messages of a request (see docs/provider.md).

    Returns:
        A context. Its value has `base_url` (with "/v1"), `port`, `scenario`, `stats()` and `reset()`.

    Raises:
        ConfigurationError: the scenario is invalid, or the port is not available.
    """
    from stormbreak.provider import in_thread  # noqa: PLC0415

    return in_thread.serve(scenario, seed=seed, speed=speed, port=port, answers=answers)


def answer_text(payload: Mapping[str, Any]) -> str:
    """Return the text that the provider makes up for this request, in any format.

    `payload` is the body of the request, with its model; `stream` makes no difference.
    """
    from stormbreak.provider.formats.registry import text_of  # noqa: PLC0415

    return text_of(payload)


def storm(
    scenario: str | Path | Scenario,
    *,
    policy: str | Path | Policy | NamedPolicy | None = None,
    check: str | None = None,
    seed: int = 0,
    seeds: int = 1,
    processes: int = 1,
    shared: bool = False,
    first_output: bool = False,
) -> Sequence[Result]:
    """Simulate a storm under a policy and check the measures, as `stormbreak storm run` does; return a result for each seed.

    Args:
        scenario: a name, a path, TOML text (anything with a line break in it) or a value.
        policy: a value of `--policy`, or a Policy; by default the preset of the scenario.
        check: a condition as for `--assert`, 'goodput >= 0.95 and recovery <= 5', on the mean of all seeds.
        seed: the first.
        seeds: the number of runs.
        processes: parallel runs.
        shared: whether all processes of the scenario share one engine.
        first_output: whether answers are streamed.

    Raises:
        AssertionError: the condition does not hold; has the verdict and the values.
        ConfigurationError: the scenario, the policy or the condition is invalid.
    """
    from stormbreak.provider.in_thread import scenario_of  # noqa: PLC0415
    from stormbreak.storm import policies  # noqa: PLC0415
    from stormbreak.storm.assertions import parse_assertion, values  # noqa: PLC0415
    from stormbreak.storm.measures import average  # noqa: PLC0415
    from stormbreak.storm.parallel import Run, simulate_all  # noqa: PLC0415
    from stormbreak.storm.verdict import verdict  # noqa: PLC0415

    __tracebackhide__ = True
    claim = None if check is None else parse_assertion(check, source="check")
    played = scenario_of(scenario)
    named = None if policy is None else policies.given(policy)
    contender = named or policies.own(played, source=played.name)
    first = Run(
        scenario=played, contender=contender, seed=seed, shared=shared, first_output=first_output
    )
    runs = [replace(first, seed=number) for number in range(seed, seed + seeds)]
    results = simulate_all(runs, processes=processes)
    mean = average([result.measures for result in results])
    if claim is not None and not claim.holds(mean):
        raise AssertionError(
            f"{verdict(played, results)}\n{check} does not hold: {values(claim, mean)}"
        )
    return results


def survey(  # noqa: PLR0913 - keyword-only, one for each option
    policy: str | Path | Policy | NamedPolicy | None = None,
    *,
    draws: int = 60,
    check: str | None = None,
    seed: int = 0,
    families: Sequence[str] = (),
    preset: str = "interactive",
    compare: Sequence[str | Path | Policy | NamedPolicy] = (),
    runs: int = 2,
    processes: int = 1,
) -> Survey:
    """Survey a policy in random storms and check the measures, as `stormbreak storm survey` does.

    Args:
        policy: a value of `--policy`, or a Policy; by default the preset.
        draws: the number of storms.
        check: a condition as for `--assert`, 'regret_p90 <= 3 and within_5 >= 0.97'.
        seed: of the draws.
        families: names of families; none means all.
        preset: "interactive" or "batch".
        compare: other policies besides the baselines.
        runs: runs of each storm and policy; their mean counts.
        processes: parallel runs.

    Raises:
        AssertionError: the condition does not hold; has the result and the values.
        ConfigurationError: a policy, a family or the condition is invalid.
    """
    from stormbreak.storm import policies  # noqa: PLC0415
    from stormbreak.storm.assertions import parse_assertion, values  # noqa: PLC0415
    from stormbreak.storm.survey import Figures, rivals_of  # noqa: PLC0415
    from stormbreak.storm.survey import survey as survey_of  # noqa: PLC0415

    __tracebackhide__ = True
    claim = None if check is None else parse_assertion(check, source="check", about=Figures)
    found = survey_of(
        policies.given(preset if policy is None else policy),
        [*rivals_of(preset), *map(policies.given, compare)],
        draws=draws,
        seed=seed,
        families=families,
        preset=preset,
        runs=runs,
        processes=processes,
    )
    if claim is not None and not claim.holds(found.figures):
        raise AssertionError(
            f"{found.sentence}\n{check} does not hold: {values(claim, found.figures)}"
        )
    return found


def _fixture(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make it a fixture if pytest is installed."""
    try:
        import pytest  # noqa: PLC0415
    except ModuleNotFoundError:
        return function
    return pytest.fixture(function)


@_fixture
def stormbreak_provider() -> Iterator[ProviderFactory]:
    """Start providers: `stormbreak_provider("chaos", seed=1, speed=20).base_url`."""
    with ExitStack() as stack:

        def start(*scenario: Any, **options: Any) -> RunningProvider:
            return stack.enter_context(serve(*scenario, **options))

        yield start


def pytest_runtest_makereport(call: Any) -> None:
    """Add the lines of `explain`, as notes, to the exception that failed a test.

    Only to an SDK's exception: it has a response, or our exception as its cause. An assertion in `except` has neither.
    """
    explaining = sys.modules.get("stormbreak.drivers.explain")
    if call.excinfo is None or explaining is None:
        return
    error = call.excinfo.value
    if isinstance(error, explaining.CallError):
        return  # its own message has them
    # A property of a foreign exception may raise: report the test's own failure.
    with suppress(Exception):
        response = getattr(error, "response", None)
        failed = error.__cause__ if response is None else response
        for line in explaining.explain(failed).splitlines():
            if line not in getattr(error, "__notes__", ()):
                error.add_note(line)
