"""`stormbreak fleet status`: the shares of the processes of a fleet, from its store."""

from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.box import SIMPLE
from rich.table import Table

from stormbreak.cli.command import option, options, subcommand
from stormbreak.cli.options import JSON
from stormbreak.cli.output import draw, json_text, say
from stormbreak.core.fleet_policy import PASSWORD, FleetPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.escape import plain
from stormbreak.fleet.messages import NONE, StoreError
from stormbreak.fleet.store_rules import Member, Scope
from stormbreak.fleet.valkey import ValkeyStore

_COLUMNS = ("member", "lease, s", "waits for", "slots", "granted, USD", "spent, USD")


@subcommand(
    "stormbreak fleet status redis://localhost:6379",
    "stormbreak fleet status rediss://app@cache.internal:6380/0 --name shop --json",
    epilog=f"The password of the store comes from {PASSWORD}.",
)
@click.argument("url", metavar="URL")
@options("Options", option("--name", "NAME", "Name of the fleet.", default="default"), JSON)
def command(url: str, name: str, *, as_json: bool) -> None:
    """Print the targets and spend limits that processes share, and the share of each process."""
    policy = FleetPolicy(url=url, name=name)
    if url.startswith("parent:"):
        raise ConfigurationError("the store of a parent process answers its children only")
    store = ValkeyStore(url)
    try:
        now, scopes = store.now(), store.scopes(policy.name)
        shares_money = any(_what(scope).startswith("spend ") for scope in scopes)
        warnings = store.warnings() if shares_money else []
    except StoreError as error:
        raise ConfigurationError(f"the store cannot be read: {error}") from None
    finally:
        store.close()
    if as_json:
        facts = [{"scope": scope, **_facts(state, now)} for scope, state in scopes.items()]
        say(json_text({"fleet": name, "scopes": facts, "warnings": warnings}))
        return
    for scope, state in scopes.items():
        _print(_what(scope), _facts(state, now))
    if not scopes:
        say(f"no process has used the fleet {plain(name)} recently")
    for warning in warnings:
        say(f"warning: {warning}")


def _what(scope: str) -> str:
    """Return the target or spend limit of a scope, without the fleet's name."""
    return scope.partition("/")[2]


def _facts(scope: Scope, now: float) -> dict[str, Any]:
    """Return plain values; times are seconds from now."""
    return {
        "since": now - scope.epoch,
        "cooldown": max(0.0, scope.cooldown_until - now),
        "period_ends": None if scope.ends_at == NONE or scope.started == 0 else scope.ends_at - now,
        "lost_usd": scope.unclaimed / 1e6,
        "members": [_member(name, each, now) for name, each in sorted(scope.members.items())],
    }


def _member(name: str, member: Member, now: float) -> dict[str, Any]:
    return {
        "member": name,
        "lease": max(0.0, member.until - now),
        "wants_requests": member.requests.want,
        "wants_tokens": member.tokens.want,
        "slots": member.held,
        "granted_usd": (member.granted - member.returned) / 1e6,
        "spent_usd": member.spent / 1e6,
    }


def _print(what: str, facts: Mapping[str, Any]) -> None:
    members = facts["members"]
    alive = sum(member["lease"] > 0 for member in members)
    cooldown = f", cooldown {facts['cooldown']:.0f} s" if facts["cooldown"] else ""
    say(f"{plain(what)}: members {alive}, since {facts['since']:.0f} s{cooldown}")
    table = Table(*_COLUMNS, box=SIMPLE)
    for row in _rows(members):
        table.add_row(*row)
    draw(table)


def _rows(members: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for each in members:
        requests, tokens = each["wants_requests"], each["wants_tokens"]
        yield (
            plain(each["member"]),
            f"{each['lease']:.1f}" if each["lease"] else "over",
            ", ".join(
                f"{count:.0f} {what}"
                for count, what in ((requests, "requests"), (tokens, "tokens"))
                if count
            ),
            f"{each['slots']:.0f}",
            f"{each['granted_usd']:.6f}",
            f"{each['spent_usd']:.6f}",
        )
