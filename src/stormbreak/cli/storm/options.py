"""The options that the subcommands of `stormbreak storm` share."""

from collections.abc import Callable
from typing import Any

from stormbreak.cli.command import option
from stormbreak.cli.options import NAMES, Integer, Number
from stormbreak.provider.field_ranges import MAX_SPEED, MIN_SPEED

POLICY_METAVAR = "FILE|PRESET|BASELINE"
COMPARE = option("--compare", type=NAMES, default=(), help="Other policies, on the same calls.")
SEEDS = option(
    "--seeds",
    type=Integer(),
    default=1,
    help="Number of runs, with seeds from --seed on; prints mean and deviation.",
)
JOBS = option("--jobs", "-j", type=Integer(), default=1, help="Simulations in parallel.")


def policy(default: str) -> Callable[..., Any]:
    """Return the option for the policy to test."""
    return option(
        "--policy", "-p", metavar=POLICY_METAVAR, show_default=default, help="The policy to test."
    )


def seed(default: int = 0) -> Callable[..., Any]:
    """Return the option for the seed of everything random."""
    return option(
        "--seed", type=Integer(0), default=default, help="The same seed gives the same storm."
    )


def speed(default: float | None, note: str) -> Callable[..., Any]:
    """Return the option for the pace of a scenario on real sockets."""
    return option(
        "--speed",
        type=Number(MIN_SPEED, MAX_SPEED),
        default=default,
        help=f"Scenario seconds per real second; {note}.",
    )


def assertion(example: str) -> Callable[..., Any]:
    """Return the option for the condition of exit code 0."""
    return option(
        "--assert", "claim", metavar="EXPR", help=f"Exit with code 1 unless it holds: {example!r}."
    )
