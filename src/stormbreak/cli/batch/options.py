"""The options that the commands of `stormbreak batch` share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stormbreak.batch.build_job import POLICY
from stormbreak.batch.job import AUTO, CONNECT_GRACE
from stormbreak.cli.command import option, options
from stormbreak.cli.options import JSON, PORT, PRICES, REPORT, SECONDS, Integer, Number
from stormbreak.core.presets import BATCH
from stormbreak.key_patterns import quoted

F = TypeVar("F", bound=Callable[..., Any])


class _Concurrency(click.ParamType[int | str]):
    name = "N|auto"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        return self.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if str(value) == AUTO:
            return AUTO
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(
                f"must be {AUTO} or a positive whole number, got {quoted(str(value))}", param, ctx
            )
        return int(value)


BASE_URL = option("--base-url", metavar="URL", help="Address of the API, up to and including /v1.")
PROVIDER = option(
    "--provider",
    metavar="NAME",
    help="A known provider instead of --base-url: openai, deepseek, holysheep, ...",
)
MODEL = option("--model", "-m", metavar="NAME", help="Model of the rows that name none.")


def max_output_tokens(highest: int | None = None) -> Callable[[F], F]:
    """Return the option that bounds answers."""
    return option(
        "--max-output-tokens",
        type=Integer(1, highest),
        help="Output limit of rows that set none.",
    )


_DESTINATION = options(
    "Destination",
    BASE_URL,
    PROVIDER,
    option("--api-key-env", metavar="VAR", help="Environment variable with the API key."),
    MODEL,
    option(
        "--fallback-base-url",
        metavar="URL",
        help="A second API, for rows that the first one cannot answer.",
    ),
    option("--fallback-api-key-env", metavar="VAR", help="Variable with the key of that API."),
)
_LIMITS = options(
    "Limits",
    option("--rpm", type=Number(), help="Maximum requests per minute."),
    option("--tpm", type=Number(), help="Maximum tokens per minute, input and output."),
    option(
        "--max-cost",
        type=Number(name="USD"),
        help="Maximum cost of all runs on OUTPUT together.",
    ),
    max_output_tokens(),
    PRICES,
)
_RESULTS = options(
    "Results",
    option("--ordered", is_flag=True, help="Sort OUTPUT like INPUT at the end."),
    REPORT,
    JSON,
    option("--quiet", "-q", is_flag=True, help="Show no progress."),
    option(
        "--metrics-port",
        type=PORT,
        help="Serve /metrics and /state on this local port; 0 picks a free one.",
    ),
)


def run_options(command: F, *, defaults: bool = True) -> F:
    """Add the options of a run: those of `Flags`, and those of `work`."""

    def default(value: str) -> str | bool:
        return defaults and value

    policy = options(
        "Limits",
        option(
            "--policy",
            "-p",
            metavar="FILE|PRESET",
            show_default=default(POLICY),
            help="A policy file, or a preset.",
        ),
        option(
            "--concurrency",
            "-c",
            type=_Concurrency(),
            show_default=default("set by the policy"),
            help="Maximum concurrent requests; auto adapts to the target.",
        ),
    )
    timeouts = options(
        "Timeouts",
        option(
            "--timeout",
            type=SECONDS,
            show_default=default(f"{BATCH.attempt_timeout:g}, from the preset {POLICY}"),
            help="Maximum time of one attempt.",
        ),
        option("--idle-timeout", type=SECONDS, help="Maximum silence of the API in an attempt."),
        option("--deadline", type=SECONDS, help="Maximum time of one row, retries included."),
        option(
            "--connect-grace",
            type=SECONDS,
            show_default=default(f"{CONNECT_GRACE:g}"),
            help="Give up if the API has not answered by then.",
        ),
    )
    return _DESTINATION(policy(_LIMITS(timeouts(_RESULTS(command)))))


def retry_options(command: F) -> F:
    """Add the same options without defaults: `batch retry` takes the values of the last run."""
    return run_options(command, defaults=False)
