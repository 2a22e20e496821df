"""`stormbreak batch run`: answer every row of a file."""

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from msgspec.json import encode
from msgspec.json import format as indented

from stormbreak.batch.order import order_output
from stormbreak.batch.plain import path_of
from stormbreak.batch.progress import progress_on
from stormbreak.batch.rows import Rows
from stormbreak.batch.runner import End, Runner
from stormbreak.batch.store import open_store
from stormbreak.batch.summary import Summary, summarise
from stormbreak.config import resolve_policy
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import for_batch
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient

_PLANNED = ("--rpm", "--tpm", "--max-cost", "--fallback-base-url", "--fallback-api-key-env", "--report")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the flags say, apart from what goes into the policy."""

    source: Path
    output: Path
    base_url: str | None
    provider: str | None
    api_key_env: str | None
    model: str | None
    connect_grace: float
    ordered: bool
    as_json: bool
    quiet: bool


class _Seconds(click.ParamType):
    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"must be a number of seconds, got {value!r}", param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"must be positive and finite, got {value}", param, ctx)
        return seconds


class _Concurrency(click.ParamType):
    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            self.fail("auto is not built yet; give a number", param, ctx)
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"must be a positive whole number, got {value!r}", param, ctx)
        return int(value)


def _refuse(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001
    if value is not None:
        raise click.UsageError(f"{param.opts[0]} is not built yet")


_SECONDS = _Seconds()


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where answers go.")
@click.option("--base-url", help="Where to send, up to and including /v1.")
@click.option("--provider", help="A known provider instead: openai, holysheep, deepseek, ...")
@click.option("--api-key-env", metavar="VAR", help="The environment variable that holds the key.")
@click.option("--model", help="The model of rows that name none.")
@click.option("--policy", default="batch", show_default=True, help="A policy file, or a preset.")
@click.option("--concurrency", type=_Concurrency(), help="Attempts in flight at once.")
@click.option("--timeout", type=_SECONDS, help="Seconds that one attempt may take.")
@click.option("--idle-timeout", type=_SECONDS, help="Seconds of silence within an attempt.")
@click.option("--deadline", type=_SECONDS, help="Seconds that one row may take, all in all.")
@click.option("--connect-grace", type=_SECONDS, default=30.0, help="Give up if nothing answers by then.")
@click.option("--ordered", is_flag=True, help="Sort OUTPUT into the order of INPUT at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(  # noqa: PLR0913 - one parameter per flag
    *,
    policy: str,
    concurrency: int | None,
    timeout: float | None,
    idle_timeout: float | None,
    deadline: float | None,
    **flags: Any,
) -> int:
    """Answer every row of INPUT, or explain why not. Run it again to go on after a stop or a crash."""
    chosen = _with(resolve_policy(policy), concurrency, timeout, idle_timeout, deadline)
    return run_batch(_Wanted(**flags), chosen)


for _flag in reversed(_PLANNED):
    command = click.option(_flag, hidden=True, expose_value=False, callback=_refuse)(command)


def _with(
    policy: Policy,
    concurrency: int | None,
    timeout: float | None,
    idle_timeout: float | None,
    deadline: float | None,
) -> Policy:
    """Put the flags into the policy; what no flag names stays as it is."""
    policy = for_batch(policy)
    if concurrency is not None:
        policy = replace(policy, limit=FixedLimit(in_flight=concurrency))
    given = {"attempt_timeout": timeout, "idle_timeout": idle_timeout, "deadline": deadline}
    return replace(policy, **{name: span for name, span in given.items() if span is not None})


def run_batch(wanted: _Wanted, policy: Policy) -> int:
    """Run, print the summary, and return the exit code."""
    with Rows.read(wanted.source, model=wanted.model) as rows:
        client = AsyncClient(
            wanted.provider,
            base_url=wanted.base_url,
            api_key_env=wanted.api_key_env,
            policy=policy,
        )
        options = {"model": wanted.model, "base_url": client.base_url, "ordered": wanted.ordered}
        with open_store(wanted.output, rows, options=options) as store:
            began, done_before = time.monotonic(), store.journal.done
            runner = Runner(
                client,
                rows,
                store.journal,
                width=4 * policy.limit.in_flight + 64,
                connect_grace=wanted.connect_grace,
            )
            with progress_on(sys.stderr, quiet=wanted.quiet) as progress:
                end = _run_loop(runner, progress.tick)
            store.journal.compact_failed()
            summary = summarise(
                runner,
                end,
                output=str(wanted.output),
                done_before=done_before,
                elapsed=time.monotonic() - began,
            )
            if wanted.ordered and end is End.FINISHED:
                store.journal.close()
                order_output(store.files, rows)
    _print(summary, as_json=wanted.as_json)
    return _conclude(runner, end, summary)
