"""`stormbreak batch retry`: send the failed rows again, with the options of the last run."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from stormbreak.batch.job import build_job, has_target
from stormbreak.batch.run_options import BatchOptions, Choice, failed_rows, option_flag
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.reader import count_rows
from stormbreak.batch.store.run_file import Run, find_moved, read_existing_run
from stormbreak.cli.batch.options import retry_options
from stormbreak.cli.batch.run import run_and_report
from stormbreak.cli.command import Value, flag, option, options, subcommand
from stormbreak.cli.options import FILE
from stormbreak.cli.output import json_text, say
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.hidden_keys import hidden, holds_hidden, quoted
from stormbreak.types import Verdict

_KNOWN = {verdict.value: verdict for verdict in Verdict if verdict is not Verdict.OK}


class _Verdicts(Value[tuple[Verdict, ...]]):
    name = "VERDICT"

    def parse(self, text: str) -> tuple[Verdict, ...]:
        words = [word.strip() for word in text.split(",")]
        for word in words:
            if word not in _KNOWN:
                raise ValueError(f"must be one of {', '.join(_KNOWN)}, got {quoted(word)}")
        return tuple(_KNOWN[word] for word in words)


@subcommand(
    "stormbreak batch retry answers.jsonl",
    "stormbreak batch retry answers.jsonl --only auth,billing --dry-run",
)
@click.argument("output", type=FILE)
@options(
    "Rows",
    option(
        "--only",
        _Verdicts(),
        "Only rows that failed with one of these verdicts, such as auth,billing.",
        multiple=True,
    ),
    option("--input moved_to", FILE, "New path of INPUT, if it has moved."),
    flag("-n --dry-run", "Print what would be sent, but send nothing."),
)
@retry_options
def command(
    output: Path,
    *,
    only: tuple[tuple[Verdict, ...], ...],
    moved_to: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    report: str | None,
    metrics_port: tuple[str, int] | None,
    **given: Any,
) -> int:
    """Send the failed rows of OUTPUT again, with the options of the last run.

    A given option replaces that of the last run. Rows that fail again stay in the failed file.
    """
    run = read_existing_run(BatchPaths.of(output))
    options = options_of_run(BatchOptions(**given), run, output).clean()
    source = moved_to or input_of_run(run, output)
    choice = failed_rows(verdict for several in only for verdict in several)
    job = build_job(options, source=source, output=output, choice=choice)
    if dry_run:
        _preview(choice, options, source=source, output=output, as_json=as_json)
        return 0
    return run_and_report(
        job, as_json=as_json, quiet=quiet, report=report, metrics_port=metrics_port
    )


def options_of_run(given: BatchOptions, run: Run, output: Path) -> BatchOptions:
    elsewhere = has_target(given.policy)
    if run.flags is None and not (given.provider or given.base_url or elsewhere):
        raise ConfigurationError(_options_missing(run, output))
    last = run.flags or BatchOptions(model=_text(run.options.get("model")))
    options = given.over(last.without_place() if elsewhere else last)
    if not (options.provider or options.base_url or has_target(options.policy)):
        options = options.over(BatchOptions(base_url=_text(run.options.get("base_url"))))
    for name in ("base_url", "fallback_base_url"):
        if holds_hidden(getattr(options, name) or ""):
            why = "held a key, and keys are not saved; give it again"
            raise ConfigurationError(f"{path_of(output)}: the {option_flag(name)} of its run {why}")
    return options


def _options_missing(run: Run, output: Path) -> str:
    was = _text(run.options.get("base_url"))
    where = f" (it was {was})" if was else ""
    return (
        f"{path_of(BatchPaths.of(output).run)}: has no options of the last run; give --provider or"
        f" --base-url{where}, and other options it needs, such as --api-key-env, --policy and --max-cost"
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def input_of_run(run: Run, output: Path) -> Path:
    """Find INPUT at its old path. Raises ConfigurationError if it is gone."""
    source = find_moved(run.input, BatchPaths.of(output).input)
    if not source.exists():
        raise ConfigurationError(
            f"{path_of(source)}: the input of this batch does not exist; give its new path with --input"
        )
    return source


def _preview(
    choice: Choice, options: BatchOptions, *, source: Path, output: Path, as_json: bool
) -> None:
    _, failed = count_rows(BatchPaths.of(output))
    verdicts = {verdict: count for verdict, count in failed.items() if choice.takes(verdict)}
    rows = sum(verdicts.values())
    if as_json:
        found = {
            "input": str(source),
            "output": str(output),
            "rows": rows,
            "verdicts": verdicts,
            "flags": dict(_shown(options)),
        }
        say(json_text(found))
        return
    counted = ", ".join(f"{verdict} {count:,}" for verdict, count in verdicts.items())
    say(
        f"would send {rows:,} of {sum(failed.values()):,} failed rows"
        + f" ({counted})" * bool(rows)
    )
    say(f"from       {path_of(source)}")
    say(f"with       {' '.join(_words(options))}")


def _shown(options: BatchOptions) -> Iterator[tuple[str, object]]:
    """Return the options without keys that were given by mistake."""
    for name, value in options.given.items():
        if isinstance(value, tuple):
            yield name, tuple(map(hidden, value))
        else:
            yield name, hidden(value) if isinstance(value, str) else value


def _words(options: BatchOptions) -> Iterator[str]:
    for name, value in _shown(options):
        for one in value if isinstance(value, tuple) else (value,):
            yield option_flag(name)
            if one is not True:
                yield shlex.quote(plain(one, limit=4096))
