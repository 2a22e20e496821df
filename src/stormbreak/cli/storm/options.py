"""The options that the subcommands of `stormbreak storm` share."""

from collections.abc import Callable
from typing import Any

from stormbreak.cli.command import option
from stormbreak.cli.options import NAMES, Integer, Number
from stormbreak.provider.field_ranges import MAX_SECONDS, MAX_SPEED, MIN_SPEED

POLICY_METAVAR = "FILE|PRESET|BASELINE"
COMPARE = option("--compare", NAMES, "Other policies, on the same calls.", default=())
SEEDS = option(
    "--seeds",
    Integer(),
    "Number of runs, with seeds from --seed on; prints mean and deviation.",
    default=1,
)
DURATION = option(
    "--duration", Number(1e-6, MAX_SECONDS, name="SECONDS"), "End after SECONDS of the scenario."
)
JOBS = option("-j --jobs", Integer(), "Simulations in parallel.", default=1)


def policy(default: str) -> Callable[..., Any]:
    """Return the option for the policy to test."""
    return option("-p --policy", POLICY_METAVAR, "The policy to test.", show_default=default)


def seed(default: int = 0) -> Callable[..., Any]:
    """Return the option for the seed of everything random."""
    return option("--seed", Integer(0), "The same seed gives the same storm.", default=default)


def speed(default: float | None, note: str) -> Callable[..., Any]:
    """Return the option for the pace of a scenario on real sockets."""
    return option(
        "--speed",
        Number(MIN_SPEED, MAX_SPEED),
        f"Scenario seconds per real second; {note}.",
        default=default,
    )


def assertion(example: str) -> Callable[..., Any]:
    """Return the option for the condition of exit code 0."""
    return option("--assert claim", "EXPR", f"Exit with code 1 unless it holds: {example!r}.")
