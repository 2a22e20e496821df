"""The flags that `batch run` and `batch retry` share, and the job that they come to."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace as with_

from stormbreak.batch.choice import Choice
from stormbreak.batch.flags import Flags
from stormbreak.batch.job import AUTO, CONNECT_GRACE, Job
from stormbreak.cli.cost_options import lookup_in
from stormbreak.cli.numbers import REQUESTS, SECONDS, TOKENS, USD
from stormbreak.config import Settings, resolve_settings
from stormbreak.config.load import preset_unless_file
from stormbreak.config.settings import TargetSettings
from stormbreak.core.fallback import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, body_defaults, for_batch
from stormbreak.cost.price_file import builtin_names
from stormbreak.errors import ConfigurationError
from stormbreak.http.environment import is_disabled
from stormbreak.keylike import quoted

PATIENT = 60.0
"""Seconds that a row waits where it is, before it goes to --fallback-base-url: a batch is in no hurry."""

POLICY = "batch"


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


_KEPT = (
    click.option("--base-url", help="Where to send, up to and including /v1."),
    click.option("--provider", help="A known provider instead: openai, holysheep, deepseek, ..."),
    click.option("--api-key-env", metavar="VAR", help="The environment variable with the key."),
    click.option("--fallback-base-url", help="Where a row goes that cannot be answered there."),
    click.option(
        "--fallback-api-key-env", metavar="VAR", help="The variable with the key of that address."
    ),
    click.option("--model", help="The model of rows that name none."),
    click.option("--policy", help=f"A policy file, or a preset; {POLICY} if nobody says."),
    click.option(
        "--concurrency",
        type=_Concurrency(),
        help="Attempts in flight at once: so many, or as many as the target bears.",
    ),
    click.option("--rpm", type=REQUESTS, help="Requests per minute, at the most."),
    click.option("--tpm", type=TOKENS, help="Tokens per minute, prompts and answers together."),
    click.option(
        "--max-cost", type=USD, help="US dollars that all runs on OUTPUT may cost together."
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
    click.option("--timeout", type=SECONDS, help="Seconds that one attempt may take."),
    click.option("--idle-timeout", type=SECONDS, help="Seconds of silence within an attempt."),
    click.option("--deadline", type=SECONDS, help="Seconds that one row may take, all in all."),
    click.option("--connect-grace", type=SECONDS, help="Give up if nothing answers by then."),
    click.option("--ordered", is_flag=True, help="Sort OUTPUT into the order of INPUT at the end."),
)
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
    """Give a command the flags of a run: those of `Flags`, and those of `work`."""
    for option in reversed((*_KEPT, *_SHOWN)):
        command = option(command)
    return command


def job_of(flags: Flags, *, source: Path, output: Path, choice: Choice) -> Job:
    """Put the flags that belong there into the policy; what no flag names stays as it is.

    Raises:
        ConfigurationError, UsageError: they cannot be right, alone or together.
    """
    if flags.base_url and flags.provider:
        raise click.UsageError("--base-url and --provider: give one of them, not both")
    if flags.fallback_api_key_env and not flags.fallback_base_url:
        raise click.UsageError("--fallback-api-key-env: give --fallback-base-url, too")
    policy = flags.policy or POLICY
    settings = resolve_settings(policy)
    named, place = settings.policy, _place_of(flags)
    if settings.targets:
        target = _only_target(policy, settings)
        named, place = target.policy, _at(target, flags)
    if is_disabled():
        named = OFF
    return Job(
        source=source,
        output=output,
        policy=_policy_of(flags, named),
        defaults=body_defaults(named),
        price_of=lookup_in(flags.prices).price_of if flags.prices else None,
        concurrency=flags.concurrency,
        rpm=flags.rpm,
        tpm=flags.tpm,
        max_cost=flags.max_cost,
        longest_answer=flags.longest_answer,
        connect_grace=flags.connect_grace or CONNECT_GRACE,
        ordered=flags.ordered,
        choice=choice,
        flags=_wherever(flags),
        **place,
    )


def has_target(policy: str | None) -> bool:
    """Whether a settings file says where to send, so that no flag may. Raises ConfigurationError as it cannot be read."""
    return bool(resolve_settings(policy or POLICY).targets)


def _policy_of(flags: Flags, named: Policy) -> Policy:
    chosen = for_batch(named)
    chosen = replace(
        chosen,
        attempt_timeout=flags.timeout or chosen.attempt_timeout,
        idle_timeout=flags.idle_timeout or chosen.idle_timeout,
        deadline=flags.deadline or chosen.deadline,
    )
    if flags.fallback_base_url is None:
        return chosen
    place = Place(base_url=flags.fallback_base_url, api_key_env=flags.fallback_api_key_env)
    last = ToTargets(after=PATIENT, targets=(place,))
    return replace(chosen, fallback=(*chosen.fallback, last))


def _wherever(flags: Flags) -> Flags:
    """The same for a run that is started in another folder."""
    policy = flags.policy
    if policy is not None and preset_unless_file(policy) is None:
        policy = _absolute(policy)
    prices = [one if one in builtin_names() else _absolute(one) for one in flags.prices]
    return with_(flags, policy=policy, prices=tuple(prices))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path raises for odd names


def _only_target(file: str, settings: Settings) -> TargetSettings:
    """The target of a settings file, which may have one here: a batch has one place to send to, and its fallbacks."""
    if len(settings.targets) > 1:
        names = ", ".join(settings.targets)
        raise ConfigurationError(f"{file}: a batch takes a file with one target, not with {names}")
    return next(iter(settings.targets.values()))


def _place_of(flags: Flags) -> dict[str, Any]:
    """Where to send, with which key, and to which model."""
    names = ("provider", "base_url", "api_key_env", "model")
    return {name: getattr(flags, name) for name in names}


def _at(target: TargetSettings, flags: Flags) -> dict[str, Any]:
    """The same, by a target for what the flags leave open; no flag may send its key to another address."""
    for name in ("provider", "base_url", "api_key_env"):
        if getattr(flags, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag}: the file of --policy has a target, which says that")
    told = {each.name: getattr(target, each.name) for each in fields(target)}
    del told["policy"]
    return told | {"model": flags.model or target.model}
