"""`stormbreak config`: check a policy or settings file, and print every value of it."""

import os
from collections.abc import Iterator

import click

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.output import say
from stormbreak.config import (
    Settings,
    describe_settings,
    load_settings,
    profiles_in,
    resolve_settings,
)
from stormbreak.config.settings import TargetSettings
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.http.endpoint import key_variables, origin_of
from stormbreak.llm.providers import PRESETS


def key_sources(settings: Settings) -> Iterator[str]:
    """Describe each target in one line: its address and the source of its key, but never the key."""
    for name, target in settings.targets.items():
        known = PRESETS.get(target.provider or "")
        address = target.base_url or (known.base_url if known else "the address in the environment")
        yield f"Target {name}: {address}, its key {_key(target)}."


def _key(target: TargetSettings) -> str:
    if target.api_key_env is not None:
        variables = [target.api_key_env]
    else:
        try:
            variables = key_variables(target.provider, target.base_url)
        except ConfigurationError:
            return "unknown: no address is set"
    sources = [f"${name} ({'set' if os.environ.get(name) else 'not set'})" for name in variables]
    return f"from {' or '.join(sources)}" if sources else "from the program"


_PROFILE = options("Options", option("--profile", "NAME", "Apply this profile of FILE."))


@subcommand("stormbreak config show batch", "stormbreak config show policy.toml > full.toml")
@click.argument("policy", metavar="FILE|PRESET")
@_PROFILE
def show(policy: str, profile: str | None) -> None:
    """Print every value of a policy or of settings as a TOML file, each with its unit or meaning."""
    settings = resolve_settings(policy, profile=profile)
    comments = [f"# {line}\n" for line in key_sources(settings)]
    say("".join([*comments, "\n" * bool(comments), describe_settings(settings)]), end="")


@subcommand("stormbreak config check policy.toml")
@click.argument("file")
@_PROFILE
def check(file: str, profile: str | None) -> None:
    """Check FILE with each of its profiles; print the first mistake and exit with code 2."""
    for each in (profile,) if profile else (None, *profiles_in(file)):
        _check_addresses(file, load_settings(file, profile=each))
    say(f"{file}: ok")


def _check_addresses(file: str, settings: Settings) -> None:
    """Reject addresses that a client would reject. Keys may be missing here: the program sets them."""
    for name, target in settings.targets.items():
        if target.base_url is not None:
            with errors_at(f"{file}: targets.{name}"):
                origin_of(target.base_url, None)
