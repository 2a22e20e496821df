"""The options of a batch run: as given on the command line or from Python, and as the run file keeps them for `batch retry`.

Also which rows a run sends: those left, or those that failed. No key is kept, only the names of variables.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from msgspec import Struct
from msgspec.structs import asdict, replace

from stormbreak.core.checks import require, shown
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import hidden
from stormbreak.http.answer_schema import MAX_REPAIRS, AnswerSchema, Schema
from stormbreak.http.endpoint import origin_of
from stormbreak.types import TREATMENTS, Verdict

StrPath = str | os.PathLike[str]

AUTO: Literal["auto"] = "auto"

_PLACE = frozenset({"provider", "base_url", "api_key_env"})
_FALLBACK = frozenset({"fallback_base_url", "fallback_api_key_env"})


class BatchOptions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The options of `stormbreak batch run`, by their names there; None, empty or False if not given.

    Paths are absolute: a later run may start in another folder.
    """

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    fallback_base_url: str | None = None
    fallback_api_key_env: str | None = None
    model: str | None = None
    policy: str | None = None
    concurrency: int | Literal["auto"] | None = None
    workers: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    fleet: str | None = None
    max_cost: float | None = None
    max_output_tokens: int | None = None
    prices: tuple[str, ...] = ()
    timeout: float | None = None
    idle_timeout: float | None = None
    deadline: float | None = None
    connect_grace: float | None = None
    ordered: bool = False
    schema: str | None = None
    repairs: int | None = None
    dedupe: bool = False
    cache: str | None = None
    flatten: bool = False
    prefix: str | None = None
    escape_formulas: bool = False
    check_only: bool = False

    @property
    def given(self) -> dict[str, object]:
        return {
            name: value
            for name, value in asdict(self).items()
            if value or (value == 0 and value is not False)
        }

    def over(self, last: "BatchOptions") -> "BatchOptions":
        """Merge with `last`: these if given, else those of `last`.

        A key belongs to its address: a new address drops the key variable of the old one.
        """
        kept = last.given.keys() - self.given.keys()
        if self.provider or self.base_url:
            kept -= _PLACE
        if self.fallback_base_url:
            kept -= _FALLBACK
        return replace(self, **{name: getattr(last, name) for name in kept})

    def without_place(self) -> "BatchOptions":
        """Drop provider, address and key variable: the settings file has them."""
        return replace(self, **dict.fromkeys(_PLACE))

    def at(self, base_url: str) -> "BatchOptions":
        """Add the address in use if a key variable is named without one: the key stays bound to that address."""
        named = self.api_key_env and not (self.provider or self.base_url)
        return replace(self, base_url=base_url) if named else self

    def clean(self) -> "BatchOptions":
        """Cut base URLs at the `?`: a key may follow. Raises ConfigurationError for an invalid base URL."""
        return self._with_urls(lambda url: origin_of(url, None).base_url)

    def without_keys(self) -> "BatchOptions":
        """Hide keys in base URLs, for a file; a run that reads them back needs a new base URL."""
        return self._with_urls(hidden)

    def _with_urls(self, change: Callable[[str], str]) -> "BatchOptions":
        urls = {name: getattr(self, name) for name in ("base_url", "fallback_base_url")}
        return replace(self, **{name: url and change(url) for name, url in urls.items()})


class TableOptions(Struct, frozen=True, kw_only=True):
    """The options that make requests from a table's rows, by their names; None if not given. No file keeps them."""

    prompt: str | None = None
    system: str | None = None
    template: str | None = None  # the path of a file
    body: str | None = None  # a column
    id: str | None = None  # a column
    url: str | None = None
    delimiter: str | None = None
    shard: str | None = None  # I/N

    @property
    def makes_requests(self) -> bool:
        """Whether rows must be turned into requests."""
        return any((self.prompt, self.template, self.body, self.system, self.id, self.url))


def option_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# ---------------------------------------------------------------- options from Python


class Options(TypedDict, total=False):
    """Keyword arguments of `stormbreak.batch.run`: the options of `stormbreak batch run`, and None for its defaults."""

    provider: str | None  # a known one: openai, anthropic, deepseek, ...
    base_url: str | None  # where to send instead, up to and including /v1
    api_key_env: str | None  # the environment variable that holds the key
    fallback_base_url: str | None  # for rows that the first address cannot answer
    fallback_api_key_env: str | None
    model: str | None  # for rows that name none
    policy: Policy | StrPath | None  # a policy, a preset, or a file of a policy or of settings
    concurrency: int | Literal["auto"] | None  # requests in flight
    rpm: float | None  # requests per minute
    tpm: float | None  # tokens per minute, prompts and answers together
    fleet: str | None  # the store through which processes share these limits
    max_cost: float | None  # maximum US dollars of all runs on `output` together
    max_output_tokens: int | None  # tokens of an answer under `max_cost`, if a row has no bound
    prices: StrPath | Iterable[StrPath]  # price files, which take precedence over list prices
    timeout: float | None  # seconds of one attempt
    idle_timeout: float | None  # seconds of silence within an attempt
    deadline: float | None  # seconds of one row in total
    connect_grace: float | None  # seconds until the run gives up if nothing answers
    ordered: bool  # sort `output` into the order of the rows at the end
    dedupe: bool  # send identical requests once
    cache: StrPath | None  # a folder with answers, which later runs use
    flatten: (
        bool  # also make a table if `output` is JSON lines: the rows, with their results as columns
    )
    prefix: str | None  # put before the names of the result columns of a table
    escape_formulas: bool  # of CSV: put ' before cells that a spreadsheet would run
    # answers must match it: a JSON schema, a file with one, or a pydantic model
    schema: Schema | StrPath | None
    repairs: int | None  # how often the model sees why an answer does not match, and is asked again
    check_only: bool  # check answers against the schema, but do not send it to the API

    prompt: str | None  # for each row of a table, with columns in braces: "Summarise {title}"
    system: str | None  # the system prompt, likewise
    template: StrPath | None  # a file with a Jinja2 template for the prompt, instead of `prompt`
    body: str | None  # the column that holds the whole request body, instead of `prompt`
    id: str | None  # the column that holds the custom_id
    url: str | None  # the endpoint; /v1/chat/completions
    delimiter: str | None  # of CSV
    shard: str | None  # send only every N-th row from the I-th on: "3/8"


def options_from(given: Options) -> BatchOptions:
    """Check the types of options from Python.

    Leave out a `Policy`, a schema that is not in a file, and the options that `table_options_from` reads. Raises
    ConfigurationError, which names the option and its value.
    """
    table = TableOptions.__struct_fields__
    options: dict[str, Any] = {
        name: it for name, it in given.items() if it is not None and name not in table
    }
    policy, prices = options.pop("policy", None), options.pop("prices", ())
    for name, value in options.items():
        rule, fits = _RULES.get(name, ("", lambda _: True))
        require(fits(value), f"{name} must be {rule}", shown(hidden(repr(value))))
    if policy is not None and not isinstance(policy, Policy):
        options["policy"] = str(path_from("policy", policy, "a Policy, a preset or a file"))
    if "cache" in options:
        options["cache"] = str(path_from("cache", options["cache"], "a path"))
    if isinstance(options.get("schema"), Mapping | type | AnswerSchema):
        del options["schema"]
    elif "schema" in options:
        file = path_from("schema", options["schema"], "a dict, a pydantic model or a file")
        options["schema"] = str(file)
    files = [prices] if isinstance(prices, str | os.PathLike) else prices
    paths = tuple(str(path_from("prices", file, "paths")) for file in files)
    return BatchOptions(**options, prices=paths)


def table_options_from(given: Options) -> TableOptions:
    """Check the options that make requests from a table's rows. Raises ConfigurationError."""
    options: dict[str, Any] = {name: given.get(name) for name in TableOptions.__struct_fields__}
    if options["template"] is not None:
        options["template"] = str(path_from("template", options["template"], "a file"))
    for name, value in options.items():
        fits = value is None or (value and isinstance(value, str))
        require(bool(fits), f"{name} must be a string", type(value).__name__)
    return TableOptions(**options)


def path_from(name: str, value: object, what: str) -> Path:
    """Check a path. Raises ConfigurationError."""
    if not (value and isinstance(value, str | os.PathLike)):
        raise ConfigurationError(f"{name} must be {what}, got {shown(hidden(repr(value)))}")
    return Path(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


_TEXTS = (
    "provider", "base_url", "api_key_env", "fallback_base_url", "fallback_api_key_env", "model", "prefix",
    "fleet",
)  # fmt: skip
_NUMBERS = ("rpm", "tpm", "max_cost", "timeout", "idle_timeout", "deadline", "connect_grace")
_RULES: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(_TEXTS, ("a string", lambda value: isinstance(value, str))),
    **dict.fromkeys(_NUMBERS, ("a positive, finite number", _is_number)),
    "max_output_tokens": ("a positive whole number", _is_count),
    "repairs": (
        f"a whole number from 0 to {MAX_REPAIRS}",
        lambda value: type(value) is int and 0 <= value <= MAX_REPAIRS,
    ),
    "concurrency": (
        f"{AUTO} or a positive whole number",
        lambda value: value == AUTO or _is_count(value),
    ),
}


# ---------------------------------------------------------------- which rows a run sends

_UNSENT = frozenset({Verdict.REJECTED, Verdict.CANCELLED})

FINAL = frozenset(
    verdict.value
    for verdict, treatment in TREATMENTS.items()
    if not treatment.retry and verdict not in _UNSENT
)
"""Verdicts that another run would get again, unless the user has fixed the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows a run sends: with `fresh`, those not sent yet; also the failed ones that `takes` accepts."""

    fresh: bool
    only: frozenset[str] | None = None  # verdicts; None: any
    never: frozenset[str] = frozenset()

    def takes(self, verdict: str | None) -> bool:
        """Whether a row that failed with this verdict (None: unknown) is sent again."""
        return (self.only is None or verdict in self.only) and verdict not in self.never


UNFINISHED_ROWS = Choice(fresh=True, never=FINAL)
"""All rows that are left, and all that failed for a transient cause."""


def failed_rows(only: Iterable[Verdict] = ()) -> Choice:
    """Choose only rows that failed, also permanently; with `only`, by their verdicts."""
    return Choice(fresh=False, only=frozenset(verdict.value for verdict in only) or None)
