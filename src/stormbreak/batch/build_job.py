"""The job that flags come to, be they typed or given from Python."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as with_

from stormbreak.batch.flags import Flags, typed
from stormbreak.batch.job import CONNECT_GRACE, Job
from stormbreak.batch.row_selection import Choice
from stormbreak.config import Settings, resolve_settings
from stormbreak.config.load import resolve_preset
from stormbreak.config.settings import TargetSettings
from stormbreak.core.fallback import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, body_defaults, for_batch
from stormbreak.cost.price_file import builtin_names
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.errors import ConfigurationError
from stormbreak.http.environment import is_disabled

LONG_TIMEOUT = 60.0
"""Seconds that a row waits where it is, before it goes to --fallback-base-url: a batch is in no hurry."""

POLICY = "batch"


def build_job(
    flags: Flags,
    *,
    source: Path,
    output: Path,
    choice: Choice,
    policy: Policy | None = None,
    called: Callable[[str], str] = typed,
) -> Job:
    """Put the flags that belong there into the policy; what no flag names stays as it is.

    A `policy` that is no file and no preset cannot be told to a later `batch retry`: then no flag is. In errors, flags are
    `called` as the user knows them.

    Raises:
        ConfigurationError: they cannot be right, alone or together.
    """
    _check_together(flags, called)
    name = flags.policy or POLICY
    settings = resolve_settings(name) if policy is None else Settings(policy=policy)
    named, place = settings.policy, _place_of(flags)
    if settings.targets:
        target = _only_target(name, settings)
        named, place = target.policy, _at(target, flags, called)
    if is_disabled():
        named = OFF
    return Job(
        source=source,
        output=output,
        policy=_policy_of(flags, named),
        defaults=body_defaults(named),
        price_of=load_lookup(flags.prices).price_of if flags.prices else None,
        concurrency=flags.concurrency,
        rpm=flags.rpm,
        tpm=flags.tpm,
        max_cost=flags.max_cost,
        longest_answer=flags.longest_answer,
        connect_grace=flags.connect_grace or CONNECT_GRACE,
        ordered=flags.ordered,
        choice=choice,
        flags=_wherever(flags) if policy is None else None,
        **place,
    )


def _check_together(flags: Flags, called: Callable[[str], str]) -> None:
    if flags.base_url and flags.provider:
        both = f"{called('base_url')} and {called('provider')}"
        raise ConfigurationError(f"{both}: give one of them, not both")
    if flags.fallback_api_key_env and not flags.fallback_base_url:
        key, url = called("fallback_api_key_env"), called("fallback_base_url")
        raise ConfigurationError(f"{key}: give {url}, too")


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
    last = ToTargets(max_wait=LONG_TIMEOUT, targets=(place,))
    return replace(chosen, fallback=(*chosen.fallback, last))


def _wherever(flags: Flags) -> Flags:
    """The same for a run that is started in another folder."""
    policy = flags.policy
    if policy is not None and resolve_preset(policy) is None:
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


def _at(target: TargetSettings, flags: Flags, called: Callable[[str], str]) -> dict[str, Any]:
    """The same, by a target for what the flags leave open; no flag may send its key to another address."""
    for name in ("provider", "base_url", "api_key_env"):
        if getattr(flags, name) is not None:
            file = f"the file of {called('policy')}"
            raise ConfigurationError(f"{called(name)}: {file} has a target, which says that")
    told = {each.name: getattr(target, each.name) for each in fields(target)}
    del told["policy"]
    return told | {"model": flags.model or target.model}
