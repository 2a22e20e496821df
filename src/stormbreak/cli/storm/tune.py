"""`stormbreak storm tune`: search for better numbers for a policy, and print their gains and costs."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import copymode
from typing import Any

import click
import tomli_w
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from stormbreak.cli.command import flag, option, options, subcommand
from stormbreak.cli.options import Integer, seed
from stormbreak.cli.output import draw, say, warn
from stormbreak.cli.storm.options import JOBS, POLICY_METAVAR, SCALE
from stormbreak.cli.storm.output import progress_bar
from stormbreak.config import load_policy
from stormbreak.config.write_policy import plain as values_of
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, reason
from stormbreak.provider.scenario import Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm import policies
from stormbreak.storm.traffic import scaled
from stormbreak.storm.tune import Difference, Tuned, tune


@subcommand(
    "stormbreak storm tune --policy policy.toml -j 2",
    "stormbreak storm tune --policy policy.toml --scenario shop.toml --scale 3.4 --write",
)
@options(
    "Policy",
    option("-p --policy", POLICY_METAVAR, "The policy to tune.", default="interactive"),
    flag("--write", "Write the numbers into the policy's FILE, if they are better."),
)
@options(
    "Storms",
    option("--scenario scenarios", "NAME|FILE", "Also tune in this storm.", multiple=True),
    SCALE,
    option(
        "--storms", Integer(2), "Random storms for the search and for the evaluation.", default=18
    ),
    option("--candidates", Integer(2), "Number of settings to try.", default=48),
    seed(),
    JOBS,
)
def command(
    *,
    policy: str,
    write: bool,
    scenarios: tuple[str, ...],
    scale: float,
    storms: int,
    candidates: int,
    seed: int,
    jobs: int,
) -> None:
    """Search limit, patience, deadline and hedge in random storms, and in yours.

    Gains are measured in other storms than those of the search. --scale multiplies the calls of --scenario. Here a
    deadline or patience of a policy applies if it is shorter than that of a scenario.
    """
    if scale != 1.0 and not scenarios:
        raise click.UsageError("--scale needs --scenario")
    named = policies.find(policy)
    if write and not Path(policy).is_file():
        raise click.UsageError("--write needs --policy FILE")
    with progress_bar() as bar:
        task = bar.add_task("storms", total=None)
        found = tune(
            named.policy,
            scenarios=_scenarios(scenarios, scale),
            storms=storms,
            candidates=candidates,
            seed=seed,
            processes=jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(sentence(found))
    draw(_table(found))
    if found.gains:
        say(toml_of(found.changes), end="")
    if write and found.gains:
        _write(Path(policy), found)
        say(f"Written into {path_of(policy)}.")
    elif write:
        warn(f"{path_of(policy)} is unchanged: nothing gains more than chance")


def _scenarios(names: tuple[str, ...], scale: float) -> list[Scenario]:
    found = [load(name) for name in names]
    for each in found:
        if each.load is None:
            raise ConfigurationError(f"{each.name}: tuning needs a [load], got none")
    return [each if scale == 1.0 else scaled(each, scale) for each in found]


def sentence(found: Tuned) -> str:
    tried = f"{found.candidates} settings were tried in {found.searched} storms"
    if not found.changes:
        return f"No other setting is better: {tried}."
    changes = ", ".join(f"{key} {_value(value)}" for key, value in found.changes.items())
    judged = f"{tried[0].upper()}{tried[1:]}, and the winner was judged in {found.judged} others."
    if found.gains:
        return f"Better: {changes}. {judged}"
    verdict = "is worse" if found.loses else "gains no more than chance"
    return f"Keep the policy as it is: {changes} {verdict}. {judged}"


def _value(value: Any) -> str:
    """Format a value of `tune.VALUES` in one or two words."""
    if value is None:
        return "off"
    if isinstance(value, float):
        return f"{value:g} s"
    if isinstance(value, AutomaticLimit):
        return "automatic"
    return f"{getattr(value, 'max_in_flight', None) or f'p{100 * value.percentile:.0f}'}"


def _table(found: Tuned) -> Table:
    table = Table("", "as it is", "tuned", "change", box=SIMPLE, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for group, difference in found.goodput.items():
        table.add_row(f"goodput in %, {escape(plain(group))}", *_cells(difference))
    for name, difference in found.costs.items():
        table.add_row(name, *_cells(difference))
    for key, difference in found.alone.items():
        table.add_row(f"goodput in %, without {key}", *_cells(difference))
    table.caption = "±: 95 % interval of the differences, storm by storm"
    table.caption_justify = "left"
    return table


def _cells(difference: Difference) -> Iterator[str]:
    yield f"{difference.before:.2f}"
    yield f"{difference.after:.2f}"
    yield f"{difference.change:+.2f} ±{difference.spread:.2f}"


def toml_of(changes: Mapping[str, Any]) -> str:
    """Write changes as TOML: numbers first, then tables."""
    text = tomli_w.dumps({key: values_of(value) for key, value in changes.items()})
    return f"\n{text}" if text.startswith("[") else text


def _write(path: Path, found: Tuned) -> None:
    """Put the changes into the file, and keep all other lines unchanged.

    If the new file would not have the wanted values, raises ConfigurationError and does not change the file.
    """
    draft = path.with_name(path.name + ".tuned")
    try:
        draft.write_text(merged(path.read_text("utf-8-sig"), found.changes), encoding="utf-8")
        if _reads_as(draft, found.policy):
            copymode(path, draft)
            draft.replace(path)
            return
    except OSError as error:
        raise ConfigurationError(f"--write {path_of(path)}: {reason(error)}") from None
    finally:
        draft.unlink(missing_ok=True)
    raise ConfigurationError(
        f"--write {path_of(path)}: cannot be changed, since a key has an unusual form; write the lines above into it"
    )


def _reads_as(path: Path, policy: Policy) -> bool:
    try:
        return load_policy(path) == policy
    except ConfigurationError:
        return False


def merged(text: str, changes: Mapping[str, Any]) -> str:
    """Replace the keys of `changes` in the text of a policy file, or add them."""
    table = ""
    kept = []
    for line in text.splitlines(keepends=True):
        if header := re.match(r"\s*\[+\s*([\w-]+)", line):
            table = header[1]
        key = re.match(r"\s*([\w-]+)\s*=", line)
        if table in changes or (not table and key is not None and key[1] in changes):
            continue
        kept.append(line)
    rest = "".join(kept)
    first = re.search(r"^\s*\[", rest, re.MULTILINE)
    at = len(rest) if first is None else first.start()
    numbers, _, tables = toml_of(changes).partition("\n[")
    head = rest[:at] if rest[:at].endswith("\n") or not rest[:at] else rest[:at] + "\n"
    tail = rest[at:].rstrip("\n") + "\n" if rest[at:].strip() else ""
    return head + numbers + tail + (f"\n[{tables}" if tables else "")
