"""`stormbreak config show`: describe a policy or a settings file in sentences."""

import os
import sys
from collections.abc import Iterator, Mapping
from shutil import get_terminal_size
from textwrap import wrap

import click

from stormbreak.cli.output import say
from stormbreak.config import Settings, account, delay_table, describe_settings, resolve_settings
from stormbreak.config.policy_summary import seconds, several
from stormbreak.config.settings import PoolSettings, TargetSettings
from stormbreak.errors import ConfigurationError
from stormbreak.http.environment import key_variables
from stormbreak.llm.providers import PRESETS
from stormbreak.toml_values import word_of

# ---------------------------------------------------------------- settings as text
# Each target with where its key comes from, but never the key.


def words_for(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Tell them, a line for each statement; on a terminal folded, so that there is room for `# ` before each."""
    width = get_terminal_size().columns - len("# ") if sys.stdout.isatty() else None
    for line in _statements(settings, environ):
        yield from [line] if width is None or _of_a_table(line) else _folded(line, width)


def _folded(line: str, width: int) -> list[str]:
    return wrap(line, width, subsequent_indent="  ") or [""]


def _of_a_table(line: str) -> bool:
    return "  " in line.strip()


def _statements(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    yield from account(settings.policy)
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
    model = target.model or "the model that each call names"
    yield f"Target {name}: {_place(target)}, {model}, its key {_key(target, environ)}."
    if target.stream_on_wire:
        yield "Its chat completions are sent as streams."
    if target.policy == settings.policy:
        yield "It goes by the policy above."
        return
    yield "It goes by its own policy:"
    yield from (f"  {line}" for line in account(target.policy))


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
            return "not known: nothing says where to send"
    said = [f"${name} ({'set' if environ.get(name) else 'not set'})" for name in variables]
    return f"from {' or '.join(said)}" if said else "from nowhere, unless the program gives one"


def _pool(name: str, pool: PoolSettings) -> Iterator[str]:
    members = several(f"{member.target} (weight {member.weight:g})" for member in pool.targets)
    after = "any time at all" if pool.max_wait is None else seconds(pool.max_wait)
    yield f"Pool {name}: {members}, {word_of(pool.order)}."
    yield (
        f"A call that ends as {several(pool.on)}, or would wait for more than {after}, goes on to the others."
    )


# ---------------------------------------------------------------- command


@click.command("show")
@click.argument("policy", metavar="FILE|PRESET")
@click.option("--profile", metavar="NAME", help="With this profile of the file laid over it.")
def command(policy: str, profile: str | None) -> None:
    """Say what a policy does, and what each target is, and print every value, as the TOML file that would give it."""
    settings = resolve_settings(policy, profile=profile)
    comment = "\n".join(f"# {line}".rstrip() for line in words_for(settings))
    say(f"{comment}\n\n{describe_settings(settings)}", end="")
