"""`stormbreak config`: check a policy or settings file, and describe it in sentences."""

import os
import sys
from collections.abc import Iterator, Mapping
from shutil import get_terminal_size
from textwrap import wrap

import click

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.output import say
from stormbreak.config import (
    Settings,
    delay_table,
    describe_settings,
    load_settings,
    profiles_in,
    resolve_settings,
    summarise,
)
from stormbreak.config.policy_summary import seconds, several
from stormbreak.config.settings import PoolSettings, TargetSettings
from stormbreak.errors import ConfigurationError
from stormbreak.http.endpoint import origin_of
from stormbreak.http.environment import key_variables
from stormbreak.llm.providers import PRESETS
from stormbreak.toml_values import word_of

# ---------------------------------------------------------------- settings as text
# Each target with where its key comes from, but never the key.


def words_for(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Write a line for each statement; on a terminal folded, with room for `# ` before each."""
    width = get_terminal_size().columns - len("# ") if sys.stdout.isatty() else None
    for line in _statements(settings, environ):
        yield from [line] if width is None or _of_a_table(line) else _folded(line, width)


def _folded(line: str, width: int) -> list[str]:
    return wrap(line, width, subsequent_indent="  ") or [""]


def _of_a_table(line: str) -> bool:
    return "  " in line.strip()


def _statements(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    yield from summarise(settings.policy)
    yield ""
    yield from delay_table(settings.policy.retry.backoff)
    for name, target in settings.targets.items():
        yield ""
        yield from _target(name, target, settings, environ)
    for name, pool in settings.pools.items():
        yield ""
        yield from _pool(name, pool)


def _target(
    name: str, target: TargetSettings, settings: Settings, environ: Mapping[str, str]
) -> Iterator[str]:
    model = target.model or "the model of each call"
    yield f"Target {name}: {_place(target)}, {model}, its key {_key(target, environ)}."
    if target.stream_on_wire:
        yield "Its chat completions are sent as streams."
    if target.policy == settings.policy:
        yield "It uses the policy above."
        return
    yield "It uses its own policy:"
    yield from (f"  {line}" for line in summarise(target.policy))


def _place(target: TargetSettings) -> str:
    known = PRESETS.get(target.provider or "")
    address = target.base_url or (known.base_url if known else "the address in the environment")
    return f"{target.provider} at {address}" if target.provider else address


def _key(target: TargetSettings, environ: Mapping[str, str]) -> str:
    if target.api_key_env is not None:
        variables = [target.api_key_env]
    else:
        try:
            variables = key_variables(target.provider, target.base_url, environ)
        except ConfigurationError:
            return "unknown: no address is set"
    sources = [f"${name} ({'set' if environ.get(name) else 'not set'})" for name in variables]
    return f"from {' or '.join(sources)}" if sources else "from the program"


def _pool(name: str, pool: PoolSettings) -> Iterator[str]:
    members = several(f"{member.target} (weight {member.weight:g})" for member in pool.targets)
    after = "any time" if pool.max_wait is None else seconds(pool.max_wait)
    yield f"Pool {name}: {members}, {word_of(pool.order)}."
    yield (
        f"A call that ends as {several(pool.on)}, or would wait more than {after}, falls back to the others."
    )


# ---------------------------------------------------------------- commands


_PROFILE = options("Options", option("--profile", "NAME", "Apply this profile of FILE."))


@subcommand("stormbreak config show batch", "stormbreak config show policy.toml > full.toml")
@click.argument("policy", metavar="FILE|PRESET")
@_PROFILE
def show(policy: str, profile: str | None) -> None:
    """Describe a policy and its targets, and print every value as a TOML file."""
    settings = resolve_settings(policy, profile=profile)
    comment = "\n".join(f"# {line}".rstrip() for line in words_for(settings))
    say(f"{comment}\n\n{describe_settings(settings)}", end="")


@subcommand("stormbreak config check policy.toml")
@click.argument("file")
@_PROFILE
def check(file: str, profile: str | None) -> None:
    """Check FILE, with each of its profiles; exit with code 2 and the first mistake."""
    for each in (profile,) if profile else (None, *profiles_in(file)):
        _check_addresses(file, load_settings(file, profile=each))
    say(f"{file}: ok")


def _check_addresses(file: str, settings: Settings) -> None:
    """Reject addresses that a client would reject. Keys may be missing here: the program sets them."""
    for name, target in settings.targets.items():
        if target.base_url is not None:
            try:
                origin_of(target.base_url, None)
            except ConfigurationError as error:
                raise ConfigurationError(f"{file}: targets.{name}: {error}") from None
