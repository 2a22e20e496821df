"""Run one batch from beginning to end: check the spend limit, open the files, run the rows, clean up."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stormbreak.batch.flags import Flags
from stormbreak.batch.input.index import ParsedResponse, Rows
from stormbreak.batch.ledger import Ledger
from stormbreak.batch.row_selection import UNFINISHED_ROWS, Choice
from stormbreak.batch.running.file_limits import make_room, too_many_files
from stormbreak.batch.running.runner import End, Runner
from stormbreak.batch.running.summary import Summary, summarise
from stormbreak.batch.store.append_file import OutputError
from stormbreak.batch.store.lock import require_free
from stormbreak.batch.store.output_files import Store, open_store, order_output
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import Option, Run, check_before
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.circuit import Mode
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback import ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.row_schedule import PER_WIDTH, max_rows_in_flight
from stormbreak.core.spend_policy import PriceOf, SpendPolicy
from stormbreak.core.target_state import Listener
from stormbreak.cost.meter import Meter
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.http.client import AsyncClient
from stormbreak.http.h1.connection import POOL_LIMIT
from stormbreak.http.pricing import list_price
from stormbreak.http.request_template import NO_BOUND, Asking

# ---------------------------------------------------------------- check of the spend limit
# Made before anything is sent.


def check_cost(rows: Rows, index: int, client: AsyncClient) -> None:
    """Look whether a row, the first that will be sent, can be held to a limit: others are refused one by one.

    Raises:
        ConfigurationError: it has no bound, or its model no price.
    """
    row = rows.row_at(index)
    asking = Asking(row.endpoint, row.body)
    target = client.target(asking.wanted.model)
    asking.bind(client.policy.spend.max_output_tokens, target.provider)
    where = f"{path_of(rows.path)}: row {row.custom_id!r}"
    if asking.bound() is None:
        why = asking.unbounded()
        hint = "; --longest-answer does for such rows" if why == NO_BOUND else ""
        raise ConfigurationError(f"{where}: {why}{hint}")
    prices = client.engine.payers.price_of and client.engine.payers.price_of(
        target.provider, target.model
    )
    if prices is None:
        raise ConfigurationError(
            f"{where}: no price is known of {target.model} at {target.provider}; --prices takes a file"
        )


# ---------------------------------------------------------------- job

CONNECT_GRACE = 30.0  # seconds in which something must have answered
AUTO: Literal["auto"] = "auto"
MODELS = 100_000  # that have bills of their own; what others share has no price


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run. Where to send, and with which key, is found out as `AsyncClient` does.

    `concurrency` stands in for the limit of the policy; a number may be more than `WIDEST`. So do `rpm` and `tpm`,
    requests and tokens per minute, for its quota. `defaults` are fields of chats that rows do not name.

    `max_cost` is what all runs on OUTPUT may cost together, in US dollars, at the prices that `price_of` tells, by default
    today's list prices; `longest_answer` bounds the answers of rows that do not.

    `choice` says which rows are sent; `failed_rows()` are those that failed in earlier runs on this OUTPUT. `flags` are kept in
    the run file for `batch retry`. INPUT must have this `fingerprint`, where there is one.
    """

    source: Path
    output: Path
    policy: Policy
    concurrency: int | Literal["auto"] | None = None
    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    model: str | None = None
    allow_http: bool = False
    stream_on_wire: bool = False
    connect_grace: float = CONNECT_GRACE
    ordered: bool = False
    rpm: float | None = None
    tpm: float | None = None
    defaults: Mapping[str, float] | None = None
    max_cost: float | None = None
    longest_answer: int | None = None
    price_of: PriceOf | None = None
    choice: Choice = UNFINISHED_ROWS
    flags: Flags | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        breaker = self.policy.breaker
        if breaker is not None and breaker.mode is Mode.FORCED_OPEN:
            mode = breaker.mode.value
            raise ConfigurationError(f"breaker.mode is {mode}: no row would ever be sent")


def run_job(
    job: Job,
    tick: Callable[[Runner], None] = lambda _: None,
    *,
    listeners: Iterable[Listener] = (),
    reading: ParsedResponse = lambda _: None,
) -> Summary:
    """Run `job` to its end, or until a signal.

    `reading` is told how many rows of INPUT have been read, then `tick`, four times a second, how it goes; `listeners` hear every
    event.

    Raises:
        ConfigurationError: something given cannot be right, or OUTPUT cannot be written (any more).
    """
    policy = _fitting(_policy(job), job)
    with ExitStack() as stack:
        client = _client(job, policy)
        options = _options(job, client.base_url)
        last = _check_before(job, options)
        rows = stack.enter_context(_read(job, reading, last))
        for listener in listeners:
            client.subscribe(listener)
        store = stack.enter_context(_open(job, rows, options, client))
        meter = Meter(lambda *_: None, most=MODELS)  # tokens, whatever they cost
        client.subscribe(meter)
        prices = None if job.max_cost is None else job.price_of or list_price
        ledger = Ledger(client, store, meter, prices)
        ledger.open()
        done_before, began = store.journal.done, time.monotonic()
        runner = Runner(
            client,
            rows,
            store.journal,
            ledger=ledger,
            salt=store.salt,
            width=_width(policy, job),
            grace=job.connect_grace,
            tick=tick,
        )
        end = _run_to_end(runner, client, ledger)
        _tidy(store, rows, ordered=job.ordered and end is End.FINISHED)
        elapsed = time.monotonic() - began
        return summarise(
            runner, end, output=str(job.output), done_before=done_before, elapsed=elapsed
        )


def _client(job: Job, policy: Policy) -> AsyncClient:
    """Make the client before INPUT is read, which takes a while: a missing key is reported at once."""
    return AsyncClient(
        job.provider,
        base_url=job.base_url,
        api_key_env=job.api_key_env,
        policy=policy,
        allow_http=job.allow_http,
        stream_on_wire=job.stream_on_wire,
        prices=job.price_of,
    )


def _run_to_end(runner: Runner, client: AsyncClient, ledger: Ledger) -> End:
    """Run, and write down what was spent, however it ends."""
    try:
        end = _loop(_run(runner, client))
    except BaseException:
        with suppress(OutputError):  # the first error is the one to report
            ledger.close()
        raise
    ledger.close()
    return end


def _options(job: Job, base_url: str) -> Mapping[str, Option]:
    return {"model": job.model, "base_url": base_url, "ordered": job.ordered}


def _check_before(job: Job, options: Mapping[str, Option]) -> Run | None:
    """Refuse at once what can be told before INPUT is read, which takes a while; return the run to go on with."""
    files = BatchPaths.of(job.output)
    last = check_before(files, job.source, options, job.choice)
    require_free(files)
    return last


def _read(job: Job, reading: ParsedResponse, last: Run | None) -> Rows:
    # What is right depends on the model: that of the run stays, but for `batch retry`.
    checked = last.fingerprint if last and last.options.get("model") == job.model else None
    rows = Rows.read(
        job.source, model=job.model, defaults=job.defaults, told=reading, checked=checked
    )
    if job.fingerprint not in (None, rows.fingerprint):
        rows.close()
        raise ConfigurationError(f"{path_of(job.source)}: was changed by somebody else")
    return rows


def _open(
    job: Job, rows: Rows, options: Mapping[str, Option], client: AsyncClient
) -> AbstractContextManager[Store]:
    flags = None if job.flags is None else job.flags.clean().at(client.base_url)

    def look(first: int) -> None:
        if job.max_cost is not None:
            check_cost(rows, first, client)

    return open_store(job.output, rows, options=options, flags=flags, choice=job.choice, look=look)


def _policy(job: Job) -> Policy:
    quota = job.policy.rate_limit
    policy = replace(
        job.policy,
        rate_limit=replace(quota, rpm=job.rpm or quota.rpm, tpm=job.tpm or quota.tpm),
        spend=_spend(job),
    )
    if job.concurrency is None:
        return policy
    if job.concurrency == AUTO:
        return replace(policy, limit=AutomaticLimit())
    return replace(policy, limit=FixedLimit(max_in_flight=job.concurrency))


def _spend(job: Job) -> SpendPolicy:
    spend = job.policy.spend
    if job.longest_answer is not None:
        spend = replace(spend, max_output_tokens=job.longest_answer)
    return spend if job.max_cost is None else replace(spend, max_usd=job.max_cost, period=None)


def _fitting(policy: Policy, job: Job) -> Policy:
    """Make room for all connections; bound a limit that no flag names by what fits.

    Raises:
        ConfigurationError: a concurrency that was named does not fit, or not one connection does.
    """
    named = job.concurrency if isinstance(job.concurrency, int) else None
    if named is not None and named > POOL_LIMIT:
        raise ConfigurationError(
            f"concurrency {named:,}: a run has at most {POOL_LIMIT:,} connections to an address"
        )
    ceiling = policy.limit.max_in_flight
    wanted = min(ceiling, POOL_LIMIT, PER_WIDTH * _width(policy, job))
    places = 1 + sum(len(rule.targets) for rule in policy.fallback if isinstance(rule, ToTargets))
    fit = make_room(wanted * places)
    if fit >= wanted * places:
        return policy
    if named is not None or fit < places:
        raise too_many_files(named or 1, places, fit)
    bound = fit // places
    if isinstance(policy.limit, FixedLimit):
        return replace(policy, limit=replace(policy.limit, max_in_flight=min(ceiling, bound)))
    return replace(policy, limit=replace(policy.limit, max_in_flight=min(ceiling, bound)))


def _width(policy: Policy, job: Job) -> int:
    return job.concurrency if isinstance(job.concurrency, int) else max_rows_in_flight(policy)


async def _run(runner: Runner, client: AsyncClient) -> End:
    async with client:
        return await runner.run()


def _tidy(store: Store, rows: Rows, *, ordered: bool) -> None:
    store.journal.compact_failed()
    if ordered:
        store.journal.close()
        order_output(store.files, rows)


def _loop(main: Coroutine[Any, Any, End]) -> End:
    """Run on uvloop where it is installed; the library itself never sets a loop policy."""
    with asyncio.Runner(loop_factory=_uvloop()) as runner:
        return runner.run(main)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop
