"""Poll, fetch and cancel the batches of an OUTPUT, with a job made from the options of its last run."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec.structs import replace as with_

from stormbreak.batch.job import Job, OpenJob, client_of, export_table, open_job
from stormbreak.batch.remote.api import RemoteStatus, UnsureError
from stormbreak.batch.remote.caller import Caller, RemoteError, policy_for
from stormbreak.batch.remote.fetch import Fetched, Fetcher
from stormbreak.batch.remote.planning import api_for
from stormbreak.batch.remote.submit import NOT_CREATED, ids_of, settled
from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.running.runner import run_in_loop
from stormbreak.batch.store.lock import locked
from stormbreak.batch.store.provider_batches import BatchFolder, RemoteBatch, Step
from stormbreak.batch.store.run_file import note_account
from stormbreak.cost.accounts import Cost
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of
from stormbreak.hidden_keys import hidden
from stormbreak.types import Verdict

FIRST_PAUSE = 2.0  # seconds between the first two polls ...
PAUSE_GROWTH = 1.5
MAX_PAUSE = 60.0  # ... and at most between later ones
UNSURE = "unsure"  # the status of a batch that the provider may have
OnPoll = Callable[[Sequence[RemoteBatch]], None]
OnFetched = Callable[[Fetched], None]


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """The result of `batch fetch`: `batches` were fetched now; rows and cost count over all runs on OUTPUT."""

    output: str
    total: int
    successful: int
    failed: int
    left: int
    batches: tuple[Fetched, ...] = ()
    open: int = 0  # batches that have not ended, or whose results are incomplete
    reason: Reason | None = None  # the most frequent one among failed rows of these batches
    cost: Cost = field(default_factory=Cost)

    @property
    def complete(self) -> bool:
        return not (self.failed or self.left or self.open)


def poll_batches(
    job: Job, *, wait: bool = False, on_poll: OnPoll = lambda _: None
) -> list[RemoteBatch]:
    """Ask for the status of all batches; with `wait`, until none runs. Raises as `submit_job`."""
    return _acted(job, lambda poller: poller.poll(wait=wait, on_poll=on_poll))


def cancel_batches(job: Job) -> list[RemoteBatch]:
    """Cancel running batches, drop those not created. Answers so far can be fetched. Raises as `poll_batches`."""
    return _acted(job, lambda poller: poller.cancel())


def _acted(
    job: Job, act: Callable[["Poller"], Coroutine[Any, Any, list[RemoteBatch]]]
) -> list[RemoteBatch]:
    folder, client = _folder(job), client_of(job, policy_for(job.policy, job.options))

    async def acted() -> list[RemoteBatch]:
        async with client:
            return await act(_poller(job, Caller(client, grace=job.grace), folder))

    with locked(job.files):
        return run_in_loop(acted())


def fetch_batches(
    job: Job,
    *,
    wait: bool = False,
    accept_partial: bool = False,
    on_poll: OnPoll = lambda _: None,
    on_fetched: OnFetched = lambda _: None,
) -> FetchSummary:
    """Write the results of batches that have ended; with `wait`, wait until all have.

    Incomplete results are written, but their batch stays open, unless `accept_partial`. Raises as `poll_batches`.
    """
    folder = _folder(job)
    # No row is sent, so limits do not apply.
    job = replace(job, options=with_(job.options, max_cost=None))
    policy = policy_for(job.policy, job.options)
    with open_job(job, policy, submits=True) as opened:
        caller = Caller(opened.client, grace=job.grace)
        fetcher = Fetcher(caller, opened.rows, opened.store, folder)

        async def fetched() -> list[Fetched]:
            done = []
            async with opened.client:
                poller = _poller(job, caller, folder)
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
    """Clean up the failed file, and make the table if no row is left."""
    journal, rows = opened.store.journal, opened.rows
    journal.compact_failed()
    left = len(rows) - journal.done - journal.failed
    if job.files.table is not None and not left:
        export_table(job, replace(opened.store, run=fetcher.run), rows)
    return FetchSummary(
        output=str(job.output),
        total=len(rows),
        successful=journal.done,
        failed=journal.failed,
        left=left,
        batches=tuple(done),
        open=sum(batch.is_open for batch in BatchFolder(job.files).read()),
        reason=fetcher.reasons.most_frequent(),
        cost=fetcher.run.account.cost(job.prices),
    )


def _folder(job: Job) -> BatchFolder:
    folder = BatchFolder(job.files)
    if not folder.read():
        out = path_of(job.files.output)
        raise ConfigurationError(f"{out}: no batch was submitted; see batch submit")
    return folder


def _poller(job: Job, caller: Caller, folder: BatchFolder) -> "Poller":
    place = hidden(caller.client.base_url)
    for batch in folder.read():
        if batch.is_open and batch.base_url != place:
            raise ConfigurationError(
                f"{path_of(job.files.output)}: batch {batch.number} is at {batch.base_url}, not at {place}"
            )
    return Poller(caller, folder)


class Poller:
    """Polls the batches of one OUTPUT, whose lock is held."""

    def __init__(self, caller: Caller, folder: BatchFolder) -> None:
        self._caller = caller
        self._folder = folder

    async def poll(
        self, *, wait: bool = False, on_poll: OnPoll = lambda _: None
    ) -> list[RemoteBatch]:
        """Poll batches that may still change; with `wait`, until none may: pauses grow from two seconds to a minute."""
        pause = FIRST_PAUSE
        while True:
            batches = [await self._polled(batch) for batch in self._folder.read()]
            on_poll(batches)
            if not (wait and any(may_change(batch) for batch in batches)):
                return batches
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE, PAUSE_GROWTH * pause)

    async def cancel(self) -> list[RemoteBatch]:
        """Cancel all running batches, and drop those that were not created; return all batches."""
        for batch in self._folder.read():
            if batch.step is Step.CREATING:  # a batch that is not found now is dropped
                await settled(batch)
        batches = []
        for batch in await self.poll():
            if batch.step is Step.RUNNING:
                status = await api_for(batch.endpoint, self._caller).cancel(batch)
                batch = self._heard(batch, status)  # noqa: PLW2901
            elif batch.step in NOT_CREATED and not is_unsure(batch):
                batch = self._folder.save(batch, step=Step.DONE, status="given up")  # noqa: PLW2901
            batches.append(batch)
        return batches

    async def _polled(self, batch: RemoteBatch) -> RemoteBatch:
        if batch.step is Step.CREATING:
            batch = await self._found(batch)
        if batch.step is not Step.RUNNING:
            return batch
        try:
            status = await api_for(batch.endpoint, self._caller).status(batch)
        except RemoteError as error:
            if error.verdict is Verdict.NOT_FOUND:
                file = path_of(self._folder.path_of(batch))
                how = f"if it is gone, remove {file}; then its rows can be sent again"
                raise RemoteError(f"{error}; {how}", error.verdict) from None
            raise
        return self._heard(batch, status)

    def _heard(self, batch: RemoteBatch, status: RemoteStatus) -> RemoteBatch:
        """Save the status from the provider."""
        errors = tuple(error.code for error in status.errors)
        step, began = (Step.ENDED, time.time()) if status.ended else (batch.step, batch.began)
        return self._folder.save(batch, **status.changes, errors=errors, step=step, began=began)

    async def _found(self, batch: RemoteBatch) -> RemoteBatch:
        try:
            api = api_for(batch.endpoint, self._caller)
            found = await api.find(batch, ids_of(self._folder.read()))
        except UnsureError:
            return self._folder.save(batch, status=UNSURE)
        if found is None:
            return self._folder.save(batch, status="")
        return self._folder.save(batch, step=Step.RUNNING, **found.changes)


def is_unsure(batch: RemoteBatch) -> bool:
    """Whether the provider may have it, which only its results can show."""
    return batch.step is Step.CREATING and batch.status == UNSURE


def may_change(batch: RemoteBatch) -> bool:
    """Whether its status may still change."""
    return batch.step is Step.RUNNING or is_unsure(batch)
