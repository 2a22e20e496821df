"""Make requests from the columns of a table, with `--prompt`, `--system`, `--template` or `--body`.

Only the columns that these options name are used; the others are never sent. A `--prompt` is text with columns in
braces, `{title}`; a template is Jinja2 in its sandbox.
"""

import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite, isnan
from pathlib import Path
from typing import Any, Self

import msgspec
from msgspec import DecodeError

from stormbreak import file_reader
from stormbreak.batch.input.row import CHAT, EMBEDDINGS, ENDPOINTS, MESSAGES, RESPONSES, RowError
from stormbreak.batch.run_options import TableOptions, option_flag
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.escape import path_of, quote

ROW = "row"  # in a template, all columns by name: `{{ row["Product name"] }}`
PROMPT = "the prompt"
_MAX_NAMED = 20  # columns in a message


@dataclass(frozen=True, slots=True)
class Text:
    """A text with columns in it, and the function that fills in those of a row."""

    columns: frozenset[str]
    fill: Callable[[Mapping[str, Any]], str]

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Parse text with columns in braces; a doubled brace is a literal brace."""
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            hint = "; write a brace that does not name a column twice"
            raise ConfigurationError(f"{where}: {error}{hint}") from None
        parts = [(literal, column) for literal, column, _, _ in parsed]
        for _, column, form, conversion in parsed:
            if form or conversion or column == "":
                what = "only the name of a column may be in braces"
                raise ConfigurationError(f"{where}: {what}; write other braces twice")

        def fill(record: Mapping[str, Any]) -> str:
            return "".join(
                literal if column is None else literal + text_of(record[column])
                for literal, column in parts
            )

        return cls(frozenset(column for _, column in parts if column is not None), fill)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a Jinja2 template, which runs in the sandbox."""
        try:
            from jinja2 import StrictUndefined, TemplateError, UndefinedError, meta  # noqa: PLC0415 - optional
            from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - optional
        except ImportError:
            what = "--template needs Jinja2: pip install 'stormbreak[tables]'"
            raise ConfigurationError(what) from None
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=text_of)
        with errors_at(path_of(path)):
            source = file_reader.read_text(path, what="a template")
        try:
            template = environment.from_string(source)
            columns = meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            where = f"{path_of(path)}:{getattr(error, 'lineno', 1)}"
            raise ConfigurationError(f"{where}: {error.message}") from None

        def fill(record: Mapping[str, Any]) -> str:
            try:
                return template.render({**record, ROW: record})
            except UndefinedError as error:  # it names columns, not values
                raise RowError(f"{path_of(path)}: {error.message}") from None
            except Exception as error:  # noqa: BLE001 - a template can raise anything, with values of the row
                raise RowError(f"{path_of(path)}: {type(error).__name__} in the template") from None

        return cls(frozenset(columns), fill)


def text_of(value: object) -> str:
    """Return a cell as text for a prompt: null and NaN are empty, lists and structs are JSON."""
    if value is None:
        return ""
    if isinstance(value, float) and not isfinite(value):  # not JSON
        return "" if isnan(value) else str(value)
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value, enc_hook=plain_value).decode().strip('"')


def plain_value(value: object) -> object:
    """Convert a value of numpy, or of a similar library, to a plain one. Raises NotImplementedError for others."""
    for name in ("tolist", "item", "isoformat"):
        if callable(convert := getattr(value, name, None)):
            return convert()
    raise NotImplementedError(f"a value of type {type(value).__name__}")


class RequestMaker:
    """Makes the request of each row of a table."""

    def __init__(
        self,
        options: TableOptions,
        columns: Collection[str] | None,
        table: str,
        *,
        max_tokens: int | None = None,
        name_of: Callable[[str], str] = option_flag,
    ) -> None:
        """Check the options against the columns (None: unknown); `max_tokens` is for requests that need it.

        Errors name options by `name_of`. Raises ConfigurationError if they conflict, or name an unknown column.
        """
        self._id = options.id
        self._body = options.body
        self._name_of = name_of
        self._prompt, self._system = _texts(options, columns, table, name_of)
        self._url = options.url or f"/v1{CHAT}"
        self._make = self._maker(max_tokens)
        named = self._named()
        self.columns: Sequence[str] | None = sorted(
            {column for each in named.values() for column in each}
        )
        if self._prompt is not None and ROW in self._prompt.columns and ROW not in (columns or ()):
            self.columns = None  # a template may use any
        if columns is not None:
            _check_columns(named, columns, table)

    def __call__(self, record: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Make the request of the row with this number, from 1. Raises RowError."""
        try:
            body = self._body_of(record) if self._body else self._make(record)
            custom_id = f"row-{number}" if self._id is None else id_text(record[self._id])
        except KeyError as error:
            raise RowError(f"has no {quote(error.args[0])}") from None
        return {"custom_id": custom_id, "method": "POST", "url": self._url, "body": body}

    def _named(self) -> dict[str, frozenset[str]]:
        columns = {"id": self._id, "body": self._body}
        named = {
            self._name_of(option): frozenset((column,))
            for option, column in columns.items()
            if column is not None
        }
        if self._prompt is not None:
            named[PROMPT] = self._prompt.columns
        if self._system is not None:
            named[self._name_of("system")] = self._system.columns
        return named

    def _body_of(self, record: Mapping[str, Any]) -> object:
        body = record[self._body or ""]
        if isinstance(body, str):
            try:
                body = msgspec.json.decode(body)
            except (DecodeError, RecursionError):
                body = None
        if not isinstance(body, dict):
            raise RowError(f"column {quote(self._body)} is not a JSON object")
        return body

    def _maker(self, max_tokens: int | None) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the function that makes a body in the format of the endpoint."""
        endpoint = ENDPOINTS.get(self._url)
        if endpoint is None:
            known = ", ".join(url for url in ENDPOINTS if url.startswith("/v1"))
            raise ConfigurationError(
                f"{self._name_of('url')} must be one of {known}, got {quote(self._url)}"
            )
        if endpoint == EMBEDDINGS and self._system is not None:
            raise ConfigurationError(f"{self._name_of('system')}: embeddings have no system prompt")
        if endpoint == MESSAGES and not max_tokens and self._body is None:
            option = self._name_of("max_output_tokens")
            raise ConfigurationError(f"{self._url} needs a limit on output tokens: give {option}")
        return {
            CHAT: self._chat,
            MESSAGES: lambda record: {"max_tokens": max_tokens, **self._message(record)},
            RESPONSES: lambda record: self._input(record, "instructions"),
            EMBEDDINGS: lambda record: self._input(record, ""),
        }[endpoint]

    def _chat(self, record: Mapping[str, Any]) -> dict[str, Any]:
        user = {"role": "user", "content": self._filled(record)}
        if self._system is None:
            return {"messages": [user]}
        return {"messages": [{"role": "system", "content": self._system.fill(record)}, user]}

    def _message(self, record: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": self._filled(record)}]}
        return body if self._system is None else {"system": self._system.fill(record), **body}

    def _input(self, record: Mapping[str, Any], system: str) -> dict[str, Any]:
        body = {"input": self._filled(record)}
        return body if self._system is None else {system: self._system.fill(record), **body}

    def _filled(self, record: Mapping[str, Any]) -> str:
        assert self._prompt is not None  # `_texts` has checked it
        return self._prompt.fill(record)


def id_text(value: object) -> str:
    """Return the id of a row as text, as in the journal."""
    if value is None or value == "":
        raise RowError("its id is empty")
    if isinstance(value, dict | list | float | bytes):
        raise RowError(
            f"its id is of type {type(value).__name__}; choose a column of text or whole numbers"
        )
    return text_of(value)


def _texts(
    options: TableOptions,
    columns: Collection[str] | None,
    table: str,
    name_of: Callable[[str], str],
) -> tuple[Text | None, Text | None]:
    given = [name for name in ("prompt", "template", "body") if getattr(options, name) is not None]
    if not given:
        ways = (
            f"{name_of('prompt')} 'Summarise {{title}}', {name_of('template')} or {name_of('body')}"
        )
        there = "" if columns is None else f"; the columns are {_listed(columns)}"
        raise ConfigurationError(f"{table}: its rows are not requests: give {ways}{there}")
    if given == ["body"] and options.system is not None:
        given.append("system")
    if given[1:]:
        both = " and ".join(map(name_of, given[:2]))
        raise ConfigurationError(f"{both}: give one of them, not both")
    system = None
    if options.system is not None:
        system = Text.parse(options.system, name_of("system"))
    if options.body is not None:
        return None, None
    if options.template is not None:
        prompt, where = Text.load(Path(options.template)), path_of(options.template)
    else:
        where = name_of("prompt")
        prompt = Text.parse(options.prompt or "", where)
    if not prompt.columns:
        why = "names no column, so every row would send the same request"
        raise ConfigurationError(f"{where}: {why}; name one in braces{_example(options, columns)}")
    return prompt, system


def _example(options: TableOptions, columns: Collection[str] | None) -> str:
    column = next(iter(columns or ()), "title")
    return f", such as {{{{ {column} }}}}" if options.template else f", such as {{{column}}}"


def _check_columns(
    named: Mapping[str, Collection[str]], columns: Collection[str], table: str
) -> None:
    for option, names in named.items():
        for name in sorted(names):
            if name in columns or (name == ROW and option == PROMPT):
                continue
            near = get_close_matches(name, columns, 1)
            hint = (
                f"did you mean {quote(near[0])}?" if near else f"the columns are {_listed(columns)}"
            )
            raise ConfigurationError(
                f"{table}: has no column {quote(name)}, which {option} names; {hint}"
            )


def _listed(columns: Collection[str]) -> str:
    names = [quote(column) for column in columns]
    rest = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + rest
