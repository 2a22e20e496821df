"""The flags that `batch run` and `batch retry` share."""

from collections.abc import Callable
from typing import Any

import click

from stormbreak.batch.job import CONNECT_GRACE, POLICY
from stormbreak.batch.options import AUTO
from stormbreak.cli.numbers import DOLLARS, REQUESTS, SECONDS, TOKENS
from stormbreak.core.presets import BATCH
from stormbreak.key_patterns import quoted


class _Concurrency(click.ParamType[int | str]):
    name = "N|auto"

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


_PLACE = (
    click.option("--base-url", metavar="URL", help="Where to send, up to and including /v1."),
    click.option(
        "--provider",
        metavar="NAME",
        help="A known provider instead: openai, holysheep, deepseek, ...",
    ),
    click.option("--api-key-env", metavar="VAR", help="The environment variable with the key."),
    click.option(
        "--fallback-base-url",
        metavar="URL",
        help="Where a row goes that cannot be answered there.",
    ),
    click.option(
        "--fallback-api-key-env",
        metavar="VAR",
        help="The variable with the key of that address.",
    ),
    click.option("--model", metavar="M", help="The model of rows that name none."),
)
_LIMITS = (
    click.option(
        "--concurrency",
        type=_Concurrency(),
        help="Attempts in flight at once: so many, or as many as the target bears.",
    ),
    click.option("--rpm", type=REQUESTS, help="Requests per minute, at the most."),
    click.option("--tpm", type=TOKENS, help="Tokens per minute, prompts and answers together."),
    click.option(
        "--max-cost",
        type=DOLLARS,
        metavar="DOLLARS",
        help="US dollars that all runs on OUTPUT may cost together.",
    ),
    click.option(
        "--longest-answer",
        type=click.IntRange(min=1),
        metavar="N",
        help="Tokens of an answer, under --max-cost, where a row does not bound it.",
    ),
    click.option(
        "--prices",
        metavar="FILE",
        multiple=True,
        help="A price file, for what it costs; its word counts before the list prices.",
    ),
)


def _kept(default: Callable[[object], str]) -> tuple[Callable[..., Any], ...]:
    """The flags that a run file keeps; `default` writes what holds where one is not given."""
    policy = click.option(
        "--policy",
        metavar="FILE|PRESET",
        help=f"A policy file, or a preset.{default(POLICY)}",
    )
    times = (
        click.option(
            "--timeout",
            type=SECONDS,
            help=f"Seconds that one attempt may take.{default(f'{BATCH.attempt_timeout:g}, by the preset {POLICY}')}",
        ),
        click.option("--idle-timeout", type=SECONDS, help="Seconds of silence within an attempt."),
        click.option("--deadline", type=SECONDS, help="Seconds that one row may take, all in all."),
        click.option(
            "--connect-grace",
            type=SECONDS,
            help=f"Give up if nothing answers by then.{default(f'{CONNECT_GRACE:g}')}",
        ),
        click.option(
            "--ordered", is_flag=True, help="Sort OUTPUT into the order of INPUT at the end."
        ),
    )
    return (*_PLACE, policy, *_LIMITS, *times)


_SHOWN = (
    click.option("--report", metavar="FILE", help="Also a report: FILE.html, or a picture .png."),
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Serve /metrics and /state on this port of 127.0.0.1; 0 takes a free one.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
    click.option("--quiet", is_flag=True, help="Show no progress."),
)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that begins a run its flags: those of `BatchOptions`, and those of `run_and_report`."""
    return _with((*_kept(lambda value: f"  [default: {value}]"), *_SHOWN), command)


def shared_again(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the same flags to a command that goes by those of the last run, where none is given."""
    return _with((*_kept(lambda _: ""), *_SHOWN), command)


def _with(
    options: tuple[Callable[..., Any], ...], command: Callable[..., Any]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
