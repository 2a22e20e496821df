"""The options that the commands of `stormbreak batch` share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from stormbreak.batch.input.spool import find_table
from stormbreak.batch.job import CONNECT_GRACE, MAX_WORKERS, POLICY, build_job
from stormbreak.batch.run_options import AUTO, UNFINISHED_ROWS, BatchOptions, TableOptions
from stormbreak.cli.command import Value, flag, option, options
from stormbreak.cli.options import FILE, JSON, PORT, PRICES, REPORT, SECONDS, Integer, Number
from stormbreak.core.presets import BATCH
from stormbreak.hidden_keys import quoted
from stormbreak.http.answer_schema import MAX_REPAIRS, REPAIRS
from stormbreak.telemetry.status_server import HOST

F = TypeVar("F", bound=Callable[..., Any])


class _ListenAddress(Value[tuple[str, int]]):
    name = "[HOST:]PORT"

    def parse(self, text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        return host.strip("[]") or HOST, PORT.parse(port)


class _Concurrency(Value[int | Literal["auto"]]):
    name = "N|auto"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        return self.name

    def parse(self, text: str) -> int | Literal["auto"]:
        if text == AUTO:
            return AUTO
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"must be {AUTO} or a positive whole number, got {quoted(text)}")
        return int(text)


CONCURRENCY = _Concurrency()


class _Delimiter(Value[str]):
    name = "CHAR"

    def parse(self, text: str) -> str:
        text = {"\\t": "\t", "tab": "\t"}.get(text, text)
        if len(text) != 1 or text in '"\r\n' or not text.isascii():
            raise ValueError(f"must be one character, such as ; or tab, got {quoted(text)}")
        return text


BASE_URL = option("--base-url", "URL", "Address of the API, up to and including /v1.")
PROVIDER = option(
    "--provider", "NAME", "A known provider instead of --base-url: openai, deepseek, holysheep, ..."
)
MODEL = option("-m --model", "NAME", "Model for rows that name none.")


def max_output_tokens(highest: int | None = None) -> Callable[[F], F]:
    return option(
        "--max-output-tokens", Integer(1, highest), "Output limit for rows that set none."
    )


API_KEY_ENV = option("--api-key-env", "VAR", "Environment variable with the API key.")
MAX_COST = option("--max-cost", Number(name="USD"), "Maximum total cost of all runs on OUTPUT.")
QUIET = flag("-q --quiet", "Show no progress.")
_DESTINATION = options(
    "Destination",
    BASE_URL,
    PROVIDER,
    API_KEY_ENV,
    MODEL,
    option(
        "--fallback-base-url", "URL", "A second API, for rows that the first one cannot answer."
    ),
    option("--fallback-api-key-env", "VAR", "Variable with the key of that API."),
)
_LIMITS = options(
    "Limits",
    option("--rpm", Number(), "Maximum requests per minute."),
    option("--tpm", Number(), "Maximum tokens per minute, input and output."),
    option("--fleet", "URL", "Store through which processes share limits."),
    MAX_COST,
    max_output_tokens(),
    PRICES,
    flag("--dedupe", "Send identical requests once."),
    option("--cache", "DIR", "Cache answers in DIR, and use them instead of sending."),
)
PREFIX = option(
    "--prefix", "PREFIX", "Put PREFIX before the names of the result columns of a table."
)
ESCAPE_FORMULAS = flag(
    "--escape-formulas", "In CSV, put ' before cells that a spreadsheet would run as a formula."
)
FLATTEN = flag(
    "--flatten", "Also make a table of a .jsonl OUTPUT: rows with their results as columns."
)
_RESULTS = options(
    "Results",
    flag("--ordered", "Sort OUTPUT like INPUT at the end; tables always are."),
    FLATTEN,
    PREFIX,
    ESCAPE_FORMULAS,
    REPORT,
    JSON,
    QUIET,
    option(
        "--metrics-port",
        _ListenAddress(),
        "Serve /metrics on this local port; 0 picks a free one. 0.0.0.0:9464 also serves other machines.",
    ),
)


_POLICY = option("-p --policy", "FILE|PRESET", "A policy file, or a preset.", show_default=POLICY)
CONNECT_GRACE_OPTION = option(
    "--connect-grace",
    SECONDS,
    "Give up if the API has not answered by then.",
    show_default=f"{CONNECT_GRACE:g}",
)


def submit_options(command: F) -> F:
    """Add the options of `batch submit`: those of `batch run` that also apply here."""
    destination = options("Destination", BASE_URL, PROVIDER, API_KEY_ENV, MODEL)
    limits = options(
        "Limits",
        option(
            "--batch-size",
            Integer(),
            "Maximum rows of one batch.",
            show_default="the provider's maximum",
        ),
        MAX_COST,
        max_output_tokens(),
        PRICES,
    )
    sending = options(
        "Requests about batches",
        _POLICY,
        option("--timeout", SECONDS, "Maximum time of one attempt, upload included."),
        CONNECT_GRACE_OPTION,
    )
    results = options("Results", FLATTEN, PREFIX, ESCAPE_FORMULAS, JSON, QUIET)
    return destination(limits(sending(results(command))))


_CONCURRENCY = options(
    "Limits",
    _POLICY,
    option(
        "-c --concurrency",
        CONCURRENCY,
        "Maximum concurrent requests; auto adapts to the target.",
        show_default="set by the policy",
    ),
    option(
        "--workers",
        Integer(1, MAX_WORKERS),
        "Number of sending processes; they share all limits.",
        show_default="1",
    ),
)
_ANSWERS = options(
    "Answers",
    option("--schema", "FILE", "A JSON schema that every answer must match."),
    option(
        "--repairs",
        Integer(0, MAX_REPAIRS),
        "Times to ask again, with the reason why the answer does not match.",
        show_default=f"{REPAIRS}",
    ),
    flag("--check-only", "Check answers, but do not send the schema: for APIs that reject it."),
)
_TIMEOUTS = options(
    "Timeouts",
    option(
        "--timeout",
        SECONDS,
        "Maximum time of one attempt.",
        show_default=f"{BATCH.attempt_timeout:g}, from the preset {POLICY}",
    ),
    option("--idle-timeout", SECONDS, "Maximum silence of the API in an attempt."),
    option("--deadline", SECONDS, "Maximum time of one row, retries included."),
    CONNECT_GRACE_OPTION,
)


def run_options(command: F) -> F:
    return _DESTINATION(_ANSWERS(_CONCURRENCY(_LIMITS(_TIMEOUTS(_RESULTS(command))))))


def retry_options(command: F) -> F:
    """Add the same options, without defaults in their help: `batch retry` uses the values of the last run."""
    added: Any = run_options(command)
    for param in added.__click_params__:
        param.show_default = False
    return cast("F", added)


_TABLE = (
    option(
        "--prompt", "PROMPT", "Prompt of each row, with columns in braces: 'Summarise {title}'."
    ),
    option("--system", "PROMPT", "System prompt of each row, likewise."),
    option("--template", FILE, "Jinja2 template of the prompt, instead of --prompt."),
    option("--body", "COLUMN", "Column with the whole request body, as JSON."),
    option("--id", "COLUMN", "Column with the custom_id.", show_default="row-1, row-2, ..."),
    option("--url", "URL", "Endpoint of the requests.", show_default="/v1/chat/completions"),
    option(
        "--delimiter",
        _Delimiter(),
        "Delimiter of a CSV INPUT.",
        show_default="comma; tab for .tsv files",
    ),
    option("--shard", "I/N", "Send only every N-th row, starting at the I-th; see batch merge."),
)


def table_options(command: F) -> F:
    """Add the options that make requests from a table's rows; the command gets them as `table`."""

    @wraps(command)
    def with_table(*args: Any, **given: Any) -> Any:
        table = {name: given.pop(name) for name in TableOptions.__struct_fields__}
        if table["template"] is not None:
            table["template"] = str(table["template"])
        return command(*args, table=TableOptions(**table), **given)

    return options("Requests of a table", *_TABLE)(cast("F", with_table))


def job_options(command: F) -> F:
    """Add INPUT, --output and the options of a table; the command gets a job made from these and its own options."""

    @wraps(command)
    def with_job(*, source: Path, output: Path, table: TableOptions, **given: Any) -> Any:
        names = [name for name in BatchOptions.__struct_fields__ if name in given]
        chosen = BatchOptions(**{name: given.pop(name) for name in names})
        found = find_table(source, table, chosen)
        job = build_job(chosen, source=source, output=output, choice=UNFINISHED_ROWS, table=found)
        return command(job, **given)

    destination = option("-o --output", FILE, "File for the answers.", required=True)
    source = click.argument("source", metavar="INPUT", type=FILE)
    return source(destination(table_options(cast("F", with_job))))
