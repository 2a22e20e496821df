"""Run a batch from Python: `run` for programs and notebooks, `arun` for code with an event loop."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict, Unpack

from stormbreak.batch.background_run import BackgroundRun, OnProgress
from stormbreak.batch.build_job import build_job
from stormbreak.batch.flags import Flags
from stormbreak.batch.input.index import fingerprint_of, new_fingerprint
from stormbreak.batch.job import AUTO, Job
from stormbreak.batch.row_selection import UNFINISHED_ROWS, Choice
from stormbreak.batch.running.summary import Summary, require_reached
from stormbreak.batch.store.append_file import replacing
from stormbreak.batch.store.lock import held, locked
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import read_run
from stormbreak.core.checks import require, shown
from stormbreak.core.policy import Policy
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.http.request import encode_payload
from stormbreak.key_patterns import hidden

# ---------------------------------------------------------------- rows given from Python
# The rows go to a file of their own beside OUTPUT, since a run that continues reads its INPUT
# again.

Given = Iterable[Mapping[str, Any]]


@contextmanager
def spool_rows(files: BatchPaths, rows: Given) -> Iterator[str]:
    """Write `rows` to `files.input` (mode 0600), and give their fingerprint; where no run came of it, the file goes again.

    Raises:
        ConfigurationError: a row is no dict or no JSON, OUTPUT belongs to other rows, or another run is writing to it.
    """
    fingerprint = _write(files, rows)
    try:
        yield fingerprint
    finally:
        if not files.run.exists() and not held(files):  # nor is another run about to write it
            files.input.unlink(missing_ok=True)


def _write(files: BatchPaths, rows: Given) -> str:
    digest, count = new_fingerprint(), 0
    try:
        with locked(files), replacing(files.input) as file:
            for count, row in enumerate(_from(rows), 1):
                line = _line(row, count)
                digest.update(line)
                file.write(line)
            _check(files, digest.hexdigest(), count)
    except _RowsError as error:
        raise error.cause from None
    return digest.hexdigest()


def _check(files: BatchPaths, fingerprint: str, count: int) -> None:
    """Refuse rows of another run, and a file of somebody else's; those of a run before stay what they were."""
    run = read_run(files)
    if run is not None and run.fingerprint != fingerprint:
        said = f"belongs to a run of other rows ({run.rows:,}; these are {count:,})"
        raise ConfigurationError(f"{path_of(files.output)}: {said}; choose another output")
    if run is None and files.input.exists() and fingerprint_of(files.input) != fingerprint:
        said = f"exists, and no {path_of(files.run.name)} says that a run wrote it"
        raise ConfigurationError(f"{path_of(files.input)}: {said}; choose another output")


def _line(row: object, number: int) -> bytes:
    if not isinstance(row, Mapping):
        raise ConfigurationError(f"row {number} must be a dict, got {type(row).__name__}")
    return encode_payload(dict(row), name=f"row {number}") + b"\n"


class _RowsError(Exception):
    """An OSError of whoever makes the rows, which is none of our files."""

    def __init__(self, cause: OSError) -> None:
        super().__init__()
        self.cause = cause


def _from(rows: Given) -> Iterator[object]:
    try:
        yield from rows
    except OSError as error:
        raise _RowsError(error) from None


# ---------------------------------------------------------------- run and arun

StrPath = str | os.PathLike[str]
Rows = Iterable[Mapping[str, Any]] | StrPath

_PATHS = (str, os.PathLike)

_TEXTS = (
    "provider", "base_url", "api_key_env", "fallback_base_url", "fallback_api_key_env", "model",
)  # fmt: skip
_NUMBERS = ("rpm", "tpm", "max_cost", "timeout", "idle_timeout", "deadline", "connect_grace")


class Options(TypedDict, total=False):
    """The flags of `stormbreak batch run`, by their names; what is not given, or None, is as it is there."""

    provider: str | None  # a known one: openai, anthropic, deepseek, ...
    base_url: str | None  # where to send instead, up to and including /v1
    api_key_env: str | None  # the environment variable that holds the key
    fallback_base_url: str | None  # where a row goes that cannot be answered there
    fallback_api_key_env: str | None
    model: str | None  # of rows that name none
    policy: Policy | StrPath | None  # itself, a preset, or a file of a policy or of settings
    concurrency: int | Literal["auto"] | None  # attempts in flight at once
    rpm: float | None  # requests per minute
    tpm: float | None  # tokens per minute, prompts and answers together
    max_cost: float | None  # US dollars that all runs on `output` may cost together
    longest_answer: int | None  # tokens of an answer under `max_cost`, where a row does not say
    prices: StrPath | Iterable[StrPath]  # price files, whose word counts before the list prices
    timeout: float | None  # seconds that one attempt may take
    idle_timeout: float | None  # seconds of silence within an attempt
    deadline: float | None  # seconds that one row may take, all in all
    connect_grace: float | None  # give up if nothing answers in so many seconds
    ordered: bool  # sort `output` into the order of the rows at the end


def run(
    rows: Rows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Answer every row, or explain why not; blocks until then. The same call goes on where an earlier one stopped.

    Args:
        rows: dicts such as `{"prompt": ...}`, `{"messages": ...}` or lines in the OpenAI Batch format, which are taken at once
            and written to a file beside `output` (`out.input.jsonl`, mode 0600); or the path of a file of such lines.
        output: where answers go, as with `stormbreak batch run`, with the same files beside it. A later call needs the same rows.
        choice: `failed_rows()` sends those that failed once more, and no others.
        on_progress: is told how the run stands four times a second, in another thread; trouble in it is logged, and ends nothing.
        options: `Options`, the flags of the command line: provider, base_url, api_key_env, model, policy, concurrency, rpm, tpm,
            max_cost, longest_answer, prices, timeout, idle_timeout, deadline, connect_grace, ordered, fallback_base_url,
            fallback_api_key_env.

    Returns:
        What came of it. `answers()` and `failures()` read the rows back; `end` says whether it went to its end: a wrong key, for
        example, stops it early.

    Raises:
        ConfigurationError: something given cannot be right, nothing answers at that address, or `output` cannot be written.
        KeyboardInterrupt: after Ctrl-C, when what was sent is answered and written; a second one ends that at once.
    """
    job, kept = _begin(rows, output, choice, options)
    with kept as fingerprint:
        return _reached(BackgroundRun(replace(job, fingerprint=fingerprint), on_progress).wait())


async def arun(
    rows: Rows,
    *,
    output: StrPath,
    choice: Choice = UNFINISHED_ROWS,
    on_progress: OnProgress | None = None,
    **options: Unpack[Options],
) -> Summary:
    """Do as `run` does, while the event loop goes on with other things.

    To be cancelled is what Ctrl-C is there: what was sent is still answered and written, which may take as long as an attempt.
    """
    job, kept = _begin(rows, output, choice, options)
    with kept as fingerprint:
        return _reached(
            await BackgroundRun(replace(job, fingerprint=fingerprint), on_progress).waited()
        )


def _begin(
    rows: Rows, output: StrPath, choice: Choice, options: Options
) -> tuple[Job, AbstractContextManager[str | None]]:
    """The job, and what keeps its rows in a file for as long as they are needed, if they are in none."""
    place = _path("output", output, "a path, where answers are kept and a later run goes on")
    files, policy = BatchPaths.of(place), options.get("policy")
    job = build_job(
        _flags(options),
        source=Path(rows) if isinstance(rows, _PATHS) else files.input,
        output=place,
        choice=choice,
        policy=policy if isinstance(policy, Policy) else None,
        called=str,
    )
    if isinstance(rows, _PATHS):
        return job, nullcontext()
    return job, spool_rows(files, rows)


def _flags(options: Options) -> Flags:
    given: dict[str, Any] = {name: it for name, it in options.items() if it is not None}
    policy, prices = given.pop("policy", None), given.pop("prices", ())
    for name, value in given.items():
        rule, fits = _RULES.get(name, ("", lambda _: True))
        require(fits(value), f"{name} must be {rule}", shown(hidden(repr(value))))
    if policy is not None and not isinstance(policy, Policy):
        given["policy"] = str(_path("policy", policy, "a Policy, a preset or a file"))
    files = [prices] if isinstance(prices, _PATHS) else prices
    return Flags(**given, prices=tuple(str(_path("prices", file, "paths")) for file in files))


def _path(name: str, value: object, what: str) -> Path:
    if not (value and isinstance(value, _PATHS)):
        raise ConfigurationError(f"{name} must be {what}, got {shown(hidden(repr(value)))}")
    return Path(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and 0 < value < math.inf


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


_RULES: Mapping[str, tuple[str, Callable[[object], bool]]] = MappingProxyType(
    {
        **dict.fromkeys(_TEXTS, ("a text", lambda value: isinstance(value, str))),
        **dict.fromkeys(_NUMBERS, ("a positive, finite number", _is_number)),
        "longest_answer": ("a positive whole number", _is_count),
        "concurrency": (
            f"{AUTO} or a positive whole number",
            lambda value: value == AUTO or _is_count(value),
        ),
    }
)


def _reached(summary: Summary) -> Summary:
    require_reached(summary)
    return summary
