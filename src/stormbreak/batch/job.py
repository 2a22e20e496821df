"""Run one batch from start to end: from options to a job, check the spend limit, open the files, run the rows, clean up."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace as with_

from stormbreak.batch.export.export import export
from stormbreak.batch.input.index import ReadProgress, Rows
from stormbreak.batch.input.spool import Spooled, TableInput, spooled
from stormbreak.batch.input.table import format_of
from stormbreak.batch.parquet import pyarrow
from stormbreak.batch.run_options import UNFINISHED_ROWS, BatchOptions, Choice, option_flag
from stormbreak.batch.running.run_policy import policy_of_run, width_of
from stormbreak.batch.running.runner import End, Runner, RunParts, run_in_loop
from stormbreak.batch.running.shared_spend import SharedSpend
from stormbreak.batch.running.stats import RunStats
from stormbreak.batch.running.summary import Summary, summarise
from stormbreak.batch.running.worker import View, WorkerPlan
from stormbreak.batch.running.workers import Running, Workers
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.lock import require_free
from stormbreak.batch.store.output_files import Store, open_store, order_output
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.provider_batches import require_no_batches
from stormbreak.batch.store.run_file import Option, Run, check_before
from stormbreak.batch.store.shared_answers import SharedAnswers
from stormbreak.batch.store.spend_record import SpendRecord, metered
from stormbreak.config import Settings, resolve_settings
from stormbreak.config.load import resolve_preset
from stormbreak.config.settings import TargetSettings
from stormbreak.core.breaker_policy import Mode
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import OFF, body_defaults, for_batch
from stormbreak.core.target_state import Listener
from stormbreak.cost.price_file import builtin_names
from stormbreak.cost.price_lookup import load_lookup
from stormbreak.cost.price_source import PriceOf
from stormbreak.cost.spend_gate import spend_accounts
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.fleet.parent_store import ParentStore
from stormbreak.hidden_keys import hidden
from stormbreak.http.answer_schema import REPAIRS, AnswerSchema, Schema, read_schema, schema_of
from stormbreak.http.client import AsyncClient
from stormbreak.http.policy_in_force import is_disabled
from stormbreak.http.pricing import list_price
from stormbreak.http.request import NO_BOUND, RequestTemplate

if TYPE_CHECKING:
    from stormbreak.batch.background_run import ResultStream

POLICY = "batch"
CONNECT_GRACE = 30.0  # seconds until something must have answered
FALLBACK_AFTER = 60.0
"""Seconds that a row waits for its address before it goes to --fallback-base-url: a batch is not urgent."""

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run. `AsyncClient` finds the address and the key.

    The `options` take precedence over the policy's limits, quotas and spend limit; here `concurrency` may exceed
    `WIDEST`. `defaults` are fields for chats that do not set them. `price_of` replaces today's list prices.

    `kept` options go into the run file for `batch retry`. The requests of a `table` are made when the job runs, unless
    they were `spooled` before; `source` is the file for them.
    """

    source: Path
    output: Path
    policy: Policy
    options: BatchOptions = field(default_factory=BatchOptions)
    choice: Choice = UNFINISHED_ROWS
    defaults: Mapping[str, float] | None = None
    price_of: PriceOf | None = None
    allow_http: bool = False
    stream_on_wire: bool = False
    kept: BatchOptions | None = None
    table: TableInput | None = None
    spooled: Spooled | None = None
    schema: AnswerSchema | None = None

    def __post_init__(self) -> None:
        breaker = self.policy.breaker
        if breaker is not None and breaker.mode is Mode.FORCED_OPEN:
            mode = breaker.mode.value
            raise ConfigurationError(f"breaker.mode is {mode}: no row would ever be sent")

    @property
    def files(self) -> BatchPaths:
        return BatchPaths.of(self.output, flatten=self.options.flatten)

    def limit_for(self, concurrency: int | Literal["auto"]) -> tuple[Limit, int]:
        """Return the limit of attempts, and the width of a process, for a new concurrency.

        Raises ConfigurationError if it does not fit.
        """
        options = with_(self.options, concurrency=concurrency)
        policy = policy_of_run(self.policy, options)
        return policy.limit, width_of(policy, options)

    @property
    def workers(self) -> int:
        return self.options.workers or 1

    @property
    def grace(self) -> float:
        return self.options.connect_grace or CONNECT_GRACE

    @property
    def prices(self) -> PriceOf:
        return self.price_of or list_price


# ---------------------------------------------------------------- from options to a job


def build_job(
    options: BatchOptions,
    *,
    source: Path,
    output: Path,
    choice: Choice,
    policy: Policy | None = None,
    table: TableInput | None = None,
    schema: Schema | None = None,
    name_of: Callable[[str], str] = option_flag,
) -> Job:
    """Make a job from these options; the requests of a `table` replace `source`.

    A `policy` object, or a `schema` that is not in a file, cannot be kept for a later `batch retry`: then no option is
    kept. Errors name options by `name_of`. Raises ConfigurationError if an option is wrong or conflicts with another.
    """
    _check_together(options, name_of)
    name = options.policy or POLICY
    settings = resolve_settings(name) if policy is None else Settings(policy=policy)
    target = _only_target(name, settings)
    chosen = settings.policy if target is None else target.policy
    if is_disabled():
        chosen = OFF
    files = BatchPaths.of(output, flatten=options.flatten)
    return Job(
        source=source if table is None else files.input,
        table=table,
        output=output,
        policy=_with_timeouts(for_batch(chosen), options),
        options=options if target is None else _placed(options, target, name_of),
        choice=choice,
        defaults=body_defaults(chosen),
        price_of=load_lookup(options.prices).price_of if options.prices else None,
        allow_http=target is not None and target.allow_http,
        stream_on_wire=target is not None and target.stream_on_wire,
        kept=_absolute(options) if policy is None and schema is None else None,
        schema=_schema(options, schema, name_of),
    )


def has_target(policy: str | None) -> bool:
    """Whether a settings file names the target: then options must not. Raises ConfigurationError as it is read."""
    return bool(resolve_settings(policy or POLICY).targets)


def _check_together(options: BatchOptions, name_of: Callable[[str], str]) -> None:
    if options.base_url and options.provider:
        both = f"{name_of('base_url')} and {name_of('provider')}"
        raise ConfigurationError(f"{both}: give one of them, not both")
    if options.fallback_api_key_env and not options.fallback_base_url:
        key, url = name_of("fallback_api_key_env"), name_of("fallback_base_url")
        raise ConfigurationError(f"{key}: give {url} too")


def _schema(
    options: BatchOptions, schema: Schema | None, name_of: Callable[[str], str]
) -> AnswerSchema | None:
    repairs = REPAIRS if options.repairs is None else options.repairs
    asks = not options.check_only
    if options.schema is not None:
        return read_schema(Path(options.schema), repairs=repairs, asks=asks)
    if schema is not None:
        return schema_of(schema, repairs, asks=asks)
    for name in ("repairs", "check_only"):
        if name in options.given:
            raise ConfigurationError(f"{name_of(name)}: give {name_of('schema')} too")
    return None


def _with_timeouts(policy: Policy, options: BatchOptions) -> Policy:
    policy = replace(
        policy,
        attempt_timeout=options.timeout or policy.attempt_timeout,
        idle_timeout=options.idle_timeout or policy.idle_timeout,
        deadline=options.deadline or policy.deadline,
    )
    if options.fallback_base_url is None:
        return policy
    place = Place(base_url=options.fallback_base_url, api_key_env=options.fallback_api_key_env)
    last = ToTargets(max_wait=FALLBACK_AFTER, targets=(place,))
    return replace(policy, fallback=(*policy.fallback, last))


def _absolute(options: BatchOptions) -> BatchOptions:
    """Make paths absolute, for a run that is started in another folder."""
    policy = options.policy
    if policy is not None and resolve_preset(policy) is None:
        policy = os.path.abspath(policy)  # noqa: PTH100 - Path raises for odd names
    known = builtin_names()
    prices = [one if one in known else os.path.abspath(one) for one in options.prices]  # noqa: PTH100
    cache, schema = (
        path and os.path.abspath(path)  # noqa: PTH100
        for path in (options.cache, options.schema)
    )
    return with_(options, policy=policy, prices=tuple(prices), cache=cache, schema=schema)


def _only_target(file: str, settings: Settings) -> TargetSettings | None:
    """The target of a settings file, if it has one: a batch has one target, and its fallbacks."""
    if len(settings.targets) > 1:
        names = ", ".join(settings.targets)
        raise ConfigurationError(f"{file}: a batch needs a file with one target, not with {names}")
    return next(iter(settings.targets.values()), None)


def _placed(
    options: BatchOptions, target: TargetSettings, name_of: Callable[[str], str]
) -> BatchOptions:
    """Add the address of a target; no option may send its key to another address."""
    for name in ("provider", "base_url", "api_key_env"):
        if getattr(options, name) is not None:
            file = f"the file of {name_of('policy')}"
            raise ConfigurationError(f"{name_of(name)}: {file} has a target, which sets that")
    return with_(
        options,
        provider=target.provider,
        base_url=target.base_url,
        api_key_env=target.api_key_env,
        model=options.model or target.model,
    )


# ---------------------------------------------------------------- run


def run_job(
    job: Job,
    tick: Callable[[Running], None] = lambda _: None,
    *,
    listeners: Iterable[Listener] = (),
    on_read: ReadProgress = lambda _: None,
    stats: RunStats | None = None,
    results: "ResultStream | None" = None,
    view: View | None = None,
) -> Summary:
    """Run `job` to its end, or until a signal.

    While INPUT is read, `on_read` gets the number of rows read; then `tick` gets the runner four times a second.
    `listeners` get every event. The counts go into `stats`, finished rows into `results`; the run waits while too many
    of these are unread. With several workers, `listeners` get only the events of their process, and `view` shows all.
    Raises ConfigurationError if an option is wrong, or OUTPUT cannot be written (any more).
    """
    with ExitStack() as stack:
        fleet = _fleet(stack) if job.workers > 1 else None
        policy = policy_of_run(job.policy, job.options, store=None if fleet is None else fleet.url)
        client, rows, store = stack.enter_context(open_job(job, policy, on_read))
        for listener in listeners:
            client.subscribe(listener)
        done_before, began = store.journal.done, time.monotonic()
        if job.options.dedupe or job.options.cache:
            stack.enter_context(_share(job, rows, store, client.base_url))
        counts, width = stats or RunStats(), width_of(policy, job.options)
        parts = RunParts(client, rows, store, counts, width, job.grace, job.schema)
        runner: Running
        if fleet is None:
            runner, end = _run_here(job, parts, tick, results)
        else:
            runner, end = _run_workers(job, parts, fleet, tick, view)
        store.journal.compact_failed()
        if job.options.ordered and end is End.FINISHED:
            store.journal.close()
            order_output(store.files, rows)
        if job.files.table is not None and end is End.FINISHED:
            export_table(job, store, rows)
        elapsed = time.monotonic() - began
        return summarise(
            runner, end, output=str(job.output), done_before=done_before, elapsed=elapsed
        )


class OpenJob(NamedTuple):
    """A job with its INPUT read and its files open."""

    client: AsyncClient
    rows: Rows
    store: Store


@contextmanager
def open_job(
    job: Job, policy: Policy, on_read: ReadProgress = lambda _: None, *, submits: bool = False
) -> Iterator[OpenJob]:
    """Check the options, read INPUT and open the files; send nothing. `submits`: batches at the provider may be open.

    Raises ConfigurationError as `run_job` does.
    """
    with ExitStack() as stack:
        client = client_of(job, policy)
        recorded = {
            "model": job.options.model,
            "base_url": hidden(client.base_url),
            "ordered": job.options.ordered,
            "schema": None if job.schema is None else job.schema.digest,
        }
        last = _check_before(job, recorded, submits=submits)
        spool = job.spooled
        if job.table is not None:
            spool = stack.enter_context(spooled(job.files, job.table, on_read))
        rows = stack.enter_context(_read(job, on_read, last, spool))
        store = stack.enter_context(_open(job, rows, recorded, client, spool, submits=submits))
        yield OpenJob(client, rows, store)


def client_of(job: Job, policy: Policy) -> AsyncClient:
    """Make the client before INPUT is read, which takes a while, so that a missing key is reported at once."""
    return AsyncClient(
        job.options.provider,
        base_url=job.options.base_url,
        api_key_env=job.options.api_key_env,
        policy=policy,
        allow_http=job.allow_http,
        stream_on_wire=job.stream_on_wire,
        prices=job.price_of,
    )


def _check_before(job: Job, recorded: Mapping[str, Option], *, submits: bool) -> Run | None:
    """Do the checks that do not need INPUT, since reading it takes a while; return the run to continue."""
    if not submits:
        require_no_batches(job.files)
    sources = (job.source,) if job.table is None else job.table.table.paths
    last = check_before(job.files, sources, recorded, job.choice)
    if last is not None and last.options.get("schema") and job.schema is None:
        why = "was begun with a schema; give it again, so that answers are checked"
        raise ConfigurationError(f"{path_of(job.files.output)}: {why}")
    if job.files.table is not None and format_of(job.files.table) == "parquet":
        pyarrow()  # else it would be missed only after all rows are paid
    require_free(job.files)
    return last


def _read(job: Job, on_read: ReadProgress, last: Run | None, spool: Spooled | None) -> Rows:
    # Whether a row is valid depends on the model: that of the run stays, except for `batch retry`.
    model = job.options.model
    checked = last.fingerprint if last and last.options.get("model") == model else None
    table = (None if spool is None else spool.table) or (None if last is None else last.table)
    rows = Rows.read(
        job.source,
        model=model,
        defaults=job.defaults,
        on_read=on_read,
        checked=checked,
        table=table.name if table else None,
        may_be_empty=table is not None and table.shard != (1, 1),  # there are more shards than rows
    )
    if spool is not None and spool.fingerprint != rows.fingerprint:
        rows.close()
        raise ConfigurationError(f"{path_of(job.source)}: was changed by another process")
    return rows


def _open(
    job: Job,
    rows: Rows,
    recorded: Mapping[str, Option],
    client: AsyncClient,
    spool: Spooled | None,
    *,
    submits: bool,
) -> AbstractContextManager[Store]:
    kept = None if job.kept is None else job.kept.clean().at(client.base_url).without_keys()

    def check_first(index: int) -> None:
        if job.options.max_cost is not None:
            check_cost(rows, index, client, job.schema)

    return open_store(
        job.files.output,
        rows,
        recorded=recorded,
        kept=kept,
        choice=job.choice,
        check_first=check_first,
        table=None if spool is None else spool.table,
        submits=submits,
    )


def check_cost(
    rows: Rows, index: int, client: AsyncClient, schema: AnswerSchema | None = None
) -> None:
    """Check that a spend limit can be enforced for the first row to send; later rows are refused one by one.

    Raises ConfigurationError if it has no bound, or its model has no price.
    """
    row = rows.row_at(index)
    template = RequestTemplate(row.endpoint, row.body, fields=row.fields, schema=schema)
    target = client.target(template.model)
    template.limit_output(client.policy.spend.max_output_tokens, target.provider)
    where = f"{path_of(rows.path)}: row {row.custom_id!r}"
    if template.token_bound() is None:
        why = template.unbounded_reason()
        hint = "; --max-output-tokens sets one for such rows" if why == NO_BOUND else ""
        raise ConfigurationError(f"{where}: {why}{hint}")
    if spend_accounts(client.engine).price_of(target.provider, target.model) is None:
        raise ConfigurationError(
            f"{where}: no price is known for {target.model} at {target.provider}; give a price file with --prices"
        )


def _run_here(
    job: Job, parts: RunParts, tick: Callable[[Runner], None], results: "ResultStream | None"
) -> tuple[Runner, End]:
    client, store = parts.client, parts.store
    prices = None if job.options.max_cost is None else job.prices
    spend = SpendRecord(client, store, metered(client), prices)
    spend.open()
    runner = Runner(parts, spend, tick)
    if results is not None:
        store.journal.on_line = results.put
        runner.reader_has_room = lambda: results.has_room
    try:
        end = run_in_loop(runner.run())
    except BaseException:
        with suppress(OutputError):  # report the first error
            spend.close()
        raise
    spend.close()
    return runner, end


def _run_workers(
    job: Job,
    parts: RunParts,
    fleet: ParentStore,
    tick: Callable[[Workers], None],
    view: View | None,
) -> tuple[Workers, End]:
    plan = WorkerPlan(
        count=job.workers,
        parts=parts,
        view=view,
        fleet=parts.client.policy.fleet.url or fleet.url,
        folder=fleet.folder,
    )
    limit = job.options.max_cost
    max_usd = None if limit is None else Decimal(str(limit))
    spend = SharedSpend(parts.store, price_of=job.prices, max_usd=max_usd)
    fleet.record = None if max_usd is None else spend
    workers = Workers(plan, fleet=fleet, spend=spend, tick=tick)
    return workers, workers.run()


def _fleet(stack: ExitStack) -> ParentStore:
    """Make the store of the workers; the `stack` removes its folder."""
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("workers: only the command line starts several processes")
    fleet = ParentStore()
    stack.callback(rmtree, fleet.folder, ignore_errors=True)
    return fleet


def _share(job: Job, rows: Rows, store: Store, base_url: str) -> SharedAnswers:
    """Write the answers that are already known; a schema changes the requests."""
    place = base_url if job.schema is None else f"{base_url} {job.schema.digest}"
    shared = SharedAnswers(rows, place, dedupe=job.options.dedupe, cache=job.options.cache)
    shared.answer_known(store.journal, store.files.output)
    return shared


def export_table(job: Job, store: Store, rows: Rows) -> None:
    """Make the table. If that fails, the answers are still safe in the journal."""
    table = job.files.table
    assert table is not None
    try:
        export(store.files, rows, store.run, table, given=job.options, price_of=job.prices)
    except ConfigurationError as error:
        here, kept = path_of(table), path_of(store.files.output)
        again = f"stormbreak batch export {here} {here}"
        why = (
            f"the answers are in {kept}, but not in a table yet: {error}; to make it later: {again}"
        )
        raise ConfigurationError(why) from None
