"""`stormbreak batch run`: answer every row of a file."""

import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.costs import BatchCost, read_cost
from stormbreak.batch.course import Course
from stormbreak.batch.figures import cost_in_words
from stormbreak.batch.files import Files
from stormbreak.batch.job import AUTO, CONNECT_GRACE, Job, run_job
from stormbreak.batch.plain import path_of, plain
from stormbreak.batch.progress import progress_on
from stormbreak.batch.runner import End
from stormbreak.batch.sight import watching
from stormbreak.batch.summary import Summary
from stormbreak.cli.batch_watched import Watched
from stormbreak.cli.cost_options import lookup_in
from stormbreak.cli.numbers import REQUESTS, SECONDS, TOKENS, USD
from stormbreak.cli.say import in_json, say
from stormbreak.config import Settings, resolve_settings
from stormbreak.config.settings import TargetSettings
from stormbreak.core.fallback import Place, ToTargets
from stormbreak.core.presets import OFF, body_defaults, for_batch
from stormbreak.errors import ConfigurationError
from stormbreak.http.environment import is_disabled
from stormbreak.keylike import quoted
from stormbreak.report.write import Destination
from stormbreak.types import Verdict

PATIENT = 60.0
"""Seconds that a row waits where it is, before it goes to --fallback-base-url: a batch is in no hurry."""

_REFUSED = {
    Verdict.AUTH: "auth, the key was refused",
    Verdict.BILLING: "billing, the account has no credit or quota left",
    Verdict.NOT_FOUND: "not_found, no such model or address",
    Verdict.REDIRECTED: "redirected, another address is meant; redirects are never followed",
}


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


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Where answers go.")
@click.option("--base-url", help="Where to send, up to and including /v1.")
@click.option("--provider", help="A known provider instead: openai, holysheep, deepseek, ...")
@click.option("--api-key-env", metavar="VAR", help="The environment variable that holds the key.")
@click.option("--fallback-base-url", help="Where a row goes that cannot be answered there.")
@click.option(
    "--fallback-api-key-env", metavar="VAR", help="The variable that holds the key of that address."
)
@click.option("--model", help="The model of rows that name none.")
@click.option("--policy", default="batch", show_default=True, help="A policy file, or a preset.")
@click.option(
    "--concurrency",
    type=_Concurrency(),
    help="Attempts in flight at once: so many, or as many as the target bears.",
)
@click.option("--rpm", type=REQUESTS, help="Requests per minute, at the most.")
@click.option("--tpm", type=TOKENS, help="Tokens per minute, prompts and answers together.")
@click.option("--max-cost", type=USD, help="US dollars that all runs on OUTPUT may cost together.")
@click.option(
    "--longest-answer",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens of an answer, under --max-cost, where a row does not bound it.",
)
@click.option(
    "--prices",
    metavar="FILE",
    multiple=True,
    help="A price file, for what it costs; its word counts before the list prices.",
)
@click.option("--timeout", type=SECONDS, help="Seconds that one attempt may take.")
@click.option("--idle-timeout", type=SECONDS, help="Seconds of silence within an attempt.")
@click.option("--deadline", type=SECONDS, help="Seconds that one row may take, all in all.")
@click.option(
    "--connect-grace",
    type=SECONDS,
    default=CONNECT_GRACE,
    help="Give up if nothing answers by then.",
)
@click.option("--ordered", is_flag=True, help="Sort OUTPUT into the order of INPUT at the end.")
@click.option("--report", metavar="FILE", help="Also a report: FILE.html, or a picture FILE.png.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve /metrics and /state on this port of 127.0.0.1; 0 takes a free one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    *, as_json: bool, quiet: bool, report: str | None, metrics_port: int | None, **flags: Any
) -> int:
    """Answer every row of INPUT, or explain why not. Run it again to go on after a stop or a crash."""
    if flags["base_url"] and flags["provider"]:
        raise click.UsageError("--base-url and --provider: give one of them, not both")
    if flags["fallback_api_key_env"] and not flags["fallback_base_url"]:
        raise click.UsageError("--fallback-api-key-env: give --fallback-base-url, too")
    job = _job(**flags)
    destination = None if report is None else _destination(report, job)
    course = Course(began=time.monotonic())
    with (
        Watched(job.output, metrics_port) as watched,
        progress_on(sys.stderr, quiet=quiet) as progress,
    ):
        tick, listeners = watched.beside(progress.tick), watched.listeners
        if destination is not None:
            tick, listeners = watching(course, tick), (*listeners, course.hear)
        summary = run_job(job, tick, listeners=listeners)
    if as_json:
        say(in_json(summary))
    elif summary.end != End.UNREACHABLE.value:
        say(_told(summary))
    if destination is not None:  # last: whatever becomes of it, what came of the rows has been told
        _report(destination, summary, course, _cost_of(job, flags["prices"]))
    return _exit_code(summary)


def _destination(report: str, job: Job) -> Destination:
    """Where the report goes, which may be none of the files of the batch."""
    destination, files = Destination.of(report), Files.of(job.output)
    taken = (job.source, files.output, files.failed, files.run, files.lock)
    if destination.path.resolve() in [path.resolve() for path in taken]:
        raise click.UsageError(f"--report {path_of(report)}: is a file of the batch itself")
    return destination


def _cost_of(job: Job, prices: Sequence[str]) -> BatchCost | None:
    """What all runs on OUTPUT have cost, where its files and the price lists say so."""
    try:
        return read_cost(job.output, lookup_in(prices))
    except ConfigurationError:
        return None


def _report(
    destination: Destination, summary: Summary, course: Course, cost: BatchCost | None
) -> None:
    """Write the report. The run is over and its answers are safe, so that trouble is told, and changes nothing else."""
    try:
        destination.batch(summary, course, cost)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run was not lost
        why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        click.echo(f"stormbreak: no report: {plain(why, limit=1000)}", err=True)


def _job(
    *,
    policy: str,
    timeout: float | None,
    idle_timeout: float | None,
    deadline: float | None,
    fallback_base_url: str | None,
    fallback_api_key_env: str | None,
    prices: tuple[str, ...],
    **rest: Any,
) -> Job:
    """Put the flags that belong there into the policy; what no flag names stays as it is."""
    settings = resolve_settings(policy)
    named = settings.policy
    if settings.targets:
        target = _only_target(policy, settings)
        named = target.policy
        rest = _at(target, rest)
    if is_disabled():
        named = OFF
    chosen = for_batch(named)
    chosen = replace(
        chosen,
        attempt_timeout=timeout or chosen.attempt_timeout,
        idle_timeout=idle_timeout or chosen.idle_timeout,
        deadline=deadline or chosen.deadline,
    )
    if fallback_base_url is not None:
        place = Place(base_url=fallback_base_url, api_key_env=fallback_api_key_env)
        last = ToTargets(after=PATIENT, targets=(place,))
        chosen = replace(chosen, fallback=(*chosen.fallback, last))
    price_of = lookup_in(prices).price_of if prices else None
    return Job(policy=chosen, defaults=body_defaults(named), price_of=price_of, **rest)


def _only_target(file: str, settings: Settings) -> TargetSettings:
    """The target of a settings file, which may have one here: a batch has one place to send to, and its fallbacks."""
    if len(settings.targets) > 1:
        names = ", ".join(settings.targets)
        raise ConfigurationError(f"{file}: a batch takes a file with one target, not with {names}")
    return next(iter(settings.targets.values()))


def _at(target: TargetSettings, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with the target for what they leave open; no flag may send its key to another address."""
    for name in ("provider", "base_url", "api_key_env"):
        if flags[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag}: the file of --policy has a target, which says that")
    told = {each.name: getattr(target, each.name) for each in fields(target)}
    del told["policy"]
    return flags | told | {"model": flags["model"] or target.model}


def _exit_code(summary: Summary) -> int:
    if summary.end == End.UNREACHABLE.value:
        raise ConfigurationError(f"{summary.base_url}: nothing answers there: {summary.trouble}")
    if summary.end == End.INTERRUPTED.value:
        return 130
    return 1 if summary.failed or summary.left else 0


def _told(summary: Summary) -> str:
    """Say what came of the run, a line each."""
    back = ", ".join(f"{verdict} {count:,}" for verdict, count in summary.verdicts.items())
    failed_file = path_of(Files.of(Path(summary.output)).failed)
    lines = {
        "answered": f"{summary.successful:,} of {summary.total:,} rows",
        "failed": f"{summary.failed:,}" + (f"; why: {failed_file}" if summary.failed else ""),
        "left": f"{summary.left:,}" if summary.left else "",
        "took": f"{summary.elapsed:,.1f} s, {summary.throughput:,.1f} rows/s",
        "sent": f"{summary.attempts:,} attempts, {summary.retries:,} of them retries",
        "came back": back,
        "cost": cost_in_words(summary.cost, summary.limit_of_cost),
        "tokens": f"{summary.input_tokens:,} in, {summary.output_tokens:,} out",
        "answers": path_of(summary.output) if summary.successful else "",
        "stopped": _stopped(summary),
    }
    return "\n".join(f"{name:<10} {said}" for name, said in lines.items() if said)


def _stopped(summary: Summary) -> str:
    if summary.refused_by is not None:
        why = _REFUSED[summary.refused_by]
        return f"the first rows all failed: {why}; mend it and run again"
    if summary.end == End.SPENT.value:
        return "what is left of the limit of spending is too little for the next row; with more, the same command goes on"
    if summary.end == End.INTERRUPTED.value:
        return "interrupted; the same command goes on from here"
    return ""
