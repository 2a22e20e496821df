"""Poll, fetch and cancel the batches of an OUTPUT, from a job with the options of its last run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as with_

from stormbreak.batch.job import (
    CONNECT_GRACE,
    Job,
    OpenJob,
    client_of,
    export_table,
    open_job,
    run_in_loop,
)
from stormbreak.batch.remote.caller import policy_for
from stormbreak.batch.remote.fetch import Fetched, Fetcher
from stormbreak.batch.remote.poll import OnPoll, Poller
from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.provider_batches import BatchFolder, RemoteBatch, Step
from stormbreak.batch.store.run_file import note_account
from stormbreak.cost.accounts import Cost
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.hidden_keys import hidden
from stormbreak.http.client import AsyncClient
from stormbreak.http.pricing import list_price

OnFetched = Callable[[Fetched], None]


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What `batch fetch` has done: `batches` were fetched now; rows and cost count over all runs on OUTPUT."""

    output: str
    total: int
    successful: int
    failed: int
    left: int
    batches: tuple[Fetched, ...] = ()
    open: int = 0  # batches that have not ended, or whose results are not whole
    reason: Reason | None = None  # of most failed rows of these batches
    cost: Cost = field(default_factory=Cost)

    @property
    def complete(self) -> bool:
        """Whether every row is answered, and no batch is open."""
        return not (self.failed or self.left or self.open)


def poll_batches(
    job: Job, *, wait: bool = False, on_poll: OnPoll = lambda _: None
) -> list[RemoteBatch]:
    """Ask how far all batches are; with `wait`, until none runs. Raises RemoteError and ConfigurationError as `submit_job`."""
    folder, client = _folder(job), client_of(job, policy_for(job.policy, job.options))

    async def polled() -> list[RemoteBatch]:
        async with client:
            return await _poller(job, client, folder).poll(wait=wait, on_poll=on_poll)

    with locked(job.files):
        return run_in_loop(polled())


def cancel_batches(job: Job) -> list[RemoteBatch]:
    """Cancel what runs, and give up what was not created. Answers so far can be fetched. Raises as `poll_batches`."""
    folder, client = _folder(job), client_of(job, policy_for(job.policy, job.options))

    async def cancelled() -> list[RemoteBatch]:
        async with client:
            return await _poller(job, client, folder).cancel()

    with locked(job.files):
        return run_in_loop(cancelled())


def fetch_batches(
    job: Job,
    *,
    wait: bool = False,
    accept_partial: bool = False,
    on_poll: OnPoll = lambda _: None,
    on_fetched: OnFetched = lambda _: None,
) -> FetchSummary:
    """Write the results of batches that have ended; with `wait`, until all have.

    Results that are not whole are written, but their batch stays open, unless `accept_partial`. Raises as
    `poll_batches`.
    """
    folder = _folder(job)
    # No row is sent: a limit has nothing to decide.
    job = replace(job, options=with_(job.options, max_cost=None))
    policy = policy_for(job.policy, job.options)
    with open_job(job, policy, submits=True) as opened:
        grace = job.options.connect_grace or CONNECT_GRACE
        fetcher = Fetcher(opened.client, opened.rows, opened.store, folder, grace=grace)

        async def fetched() -> list[Fetched]:
            done = []
            async with opened.client:
                poller = _poller(job, opened.client, folder)
                for batch in await poller.poll(wait=wait, on_poll=on_poll):
                    if batch.step is Step.ENDED:
                        done.append(await fetcher.fetch(batch, accept_partial=accept_partial))
                        on_fetched(done[-1])
            return done

        try:
            done = run_in_loop(fetched())
        finally:
            account = replace(fetcher.run.account, at_work=False)
            note_account(job.files, fetcher.run, account, fetcher.run.pauses)
        return _finish(job, opened, fetcher, done)


def _finish(job: Job, opened: OpenJob, fetcher: Fetcher, done: Sequence[Fetched]) -> FetchSummary:
    """Tidy the failed file, and make the table if there is nothing left."""
    journal, rows = opened.store.journal, opened.rows
    journal.compact_failed()
    left = len(rows) - journal.done - journal.failed
    if job.files.table is not None and not left:
        export_table(job, replace(opened.store, run=fetcher.run), rows)
    price_of = job.price_of or list_price
    return FetchSummary(
        output=str(job.output),
        total=len(rows),
        successful=journal.done,
        failed=journal.failed,
        left=left,
        batches=tuple(done),
        open=sum(batch.is_open for batch in BatchFolder(job.files).read()),
        reason=fetcher.reasons.most_frequent(),
        cost=fetcher.run.account.cost(price_of),
    )


def _folder(job: Job) -> BatchFolder:
    folder, out = BatchFolder(job.files), path_of(job.files.output)
    batches = folder.read()
    if not batches:
        raise ConfigurationError(f"{out}: no batch was submitted; see batch submit")
    return folder


def _poller(job: Job, client: AsyncClient, folder: BatchFolder) -> Poller:
    place = hidden(client.base_url)
    for batch in folder.read():
        if batch.is_open and batch.base_url != place:
            raise ConfigurationError(
                f"{path_of(job.files.output)}: batch {batch.number} is at {batch.base_url}, not at {place}"
            )
    return Poller(client, folder, grace=job.options.connect_grace or CONNECT_GRACE)
