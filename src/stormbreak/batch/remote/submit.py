"""Submit the unanswered rows of a job, as batches of the provider's own API.

Each step is recorded before it begins and when it has ended (`store.provider_batches`). A later call continues the work
of a killed one: it looks for an upload or a batch that may have arrived before it sends another.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

from stormbreak.batch.input.index import Rows
from stormbreak.batch.job import Job, OpenJob, open_job
from stormbreak.batch.remote.api import BatchApi, Content, UnsureError
from stormbreak.batch.remote.caller import Caller, policy_for
from stormbreak.batch.remote.openai_api import FileBatches
from stormbreak.batch.remote.planning import Plan, Planner, api_for, prepared
from stormbreak.batch.running.runner import run_in_loop
from stormbreak.batch.store.provider_batches import BatchFolder, RemoteBatch, RowRanges, Step
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import hidden

SETTLED_AFTER = 2.0
"""Seconds after which a request from a killed process must have arrived and be in the provider's list."""

NOT_CREATED = (Step.PLANNED, Step.UPLOADING, Step.UPLOADED, Step.CREATING)


@dataclass(kw_only=True)
class Submission:
    """The `batches` that a call submitted; `unsent` rows cost too much; `unsure` ones may be at the provider."""

    output: str
    batches: list[RemoteBatch] = field(default_factory=list)
    rows: int = 0
    unsent: int = 0
    refused_usd: Decimal | None = None  # the maximum cost of the next batch
    room_usd: Decimal | None = None
    unsure: list[RemoteBatch] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every row has an answer, a permanent failure, or is at the provider."""
        return not (self.unsent or self.unsure)


OnBatch = Callable[[RemoteBatch], None]


def submit_job(
    job: Job, *, batch_size: int | None = None, on_batch: OnBatch = lambda _: None
) -> Submission:
    """Submit the remaining rows; `on_batch` gets each batch that the provider has accepted.

    Raises ConfigurationError if an option or a row is wrong, OUTPUT belongs to other rows, or nothing answers at the
    address; RemoteError if the provider refused a request: batches submitted before stay.
    """
    policy = policy_for(job.policy, job.options)
    with open_job(job, policy, submits=True) as opened:
        try:
            return run_in_loop(_submit(job, opened, batch_size, on_batch))
        finally:
            run = opened.store.run
            opened.store.note(replace(run.account, at_work=False), run.pauses)


async def _submit(
    job: Job, opened: OpenJob, batch_size: int | None, on_batch: OnBatch
) -> Submission:
    async with opened.client:
        caller = Caller(opened.client, grace=job.grace)
        submitter = Submitter(caller, opened.rows, BatchFolder(job.files))
        submission = Submission(output=str(job.output))
        for batch in submitter.begun():
            await _advance(submitter, batch, submission, on_batch)
        planner = Planner(opened.client, opened.rows, job.prices, batch_size)
        room = None
        if job.options.max_cost is not None:
            spent = opened.store.run.account.max_cost(job.prices)
            room = Decimal(str(job.options.max_cost)) - spent - submitter.reserved()
        for plan in planner.plans(submitter.left(opened.store.journal.left())):
            if submission.unsent or (room is not None and not _is_within(plan, room)):
                submission.unsent += len(plan.indices)
                submission.refused_usd = submission.refused_usd or plan.max_usd
                submission.room_usd = room
                continue
            if room is not None and plan.max_usd is not None:
                room -= plan.max_usd
            await _advance(submitter, submitter.begin(plan), submission, on_batch)
        return submission


async def _advance(
    submitter: "Submitter", batch: RemoteBatch, submission: Submission, on_batch: OnBatch
) -> None:
    try:
        batch = await submitter.advance(batch)
    except UnsureError:
        submission.unsure.append(batch)
        return
    submission.batches.append(batch)
    submission.rows += len(batch.ranges)
    on_batch(batch)


def _is_within(plan: Plan, room: Decimal) -> bool:
    if plan.max_usd is None:
        raise ConfigurationError(
            "--max-cost: what a row for"
            f" {plan.model} can cost is not known: it has no bound (--max-output-tokens), or its model no price (--prices)"
        )
    return plan.max_usd <= room


class Submitter:
    """Moves the batches of one OUTPUT, whose lock is held, from `planned` to `running`."""

    def __init__(self, caller: Caller, rows: Rows, folder: BatchFolder) -> None:
        self._caller = caller
        self._client = client = caller.client
        self._rows = rows
        self._folder = folder
        self._batches = {batch.number: batch for batch in folder.read()}
        place = hidden(client.base_url)
        if place != client.base_url:
            why = "holds a key, which is not kept, and batch fetch would need it; use --api-key-env"
            raise ConfigurationError(f"base URL {place}: {why}")
        for batch in self._batches.values():
            if batch.is_open and batch.base_url != place:
                where = f"a batch is open at {batch.base_url}, not at {place}"
                raise ConfigurationError(f"{where}; fetch or cancel it first")

    def begun(self) -> list[RemoteBatch]:
        """Return the batches that an earlier call has planned or begun and that the provider may not have."""
        return [batch for batch in self._batches.values() if batch.step in NOT_CREATED]

    def reserved(self) -> Decimal:
        """Return the maximum cost of open batches. Raises ConfigurationError if it is unknown."""
        total = Decimal(0)
        for batch in self._batches.values():
            if batch.is_open:
                if batch.max_usd is None:
                    why = "its maximum cost is unknown; fetch its results first"
                    raise ConfigurationError(f"--max-cost: batch {batch.number} is open, and {why}")
                total += batch.max_usd
        return total

    def left(self, indices: Iterator[int]) -> Iterator[int]:
        """Leave out the rows of open batches."""
        taken = bytearray(len(self._rows))
        for batch in self._batches.values():
            if batch.is_open:
                for index in batch.ranges:
                    taken[index] = 1
        return (index for index in indices if not taken[index])

    def begin(self, plan: Plan) -> RemoteBatch:
        batch = RemoteBatch(
            number=max(self._batches, default=0) + 1,
            token=secrets.token_hex(8),
            base_url=hidden(self._client.base_url),
            endpoint=plan.endpoint,
            model=plan.model,
            rows=RowRanges.of(plan.indices).bounds,
            size=plan.size,
            began=time.time(),
            max_usd=plan.max_usd,
        )
        return self._save(batch)

    async def advance(self, batch: RemoteBatch) -> RemoteBatch:
        """Take a batch to `running`.

        Raises UnsureError if the provider may have it (its results will tell), RemoteError if it refused a request.
        """
        api = api_for(batch.endpoint, self._caller)
        content = self._content(api, batch)
        known = ids_of(self._batches.values())
        if isinstance(api, FileBatches) and batch.step in (Step.PLANNED, Step.UPLOADING):
            batch = await self._upload(api, batch, content)
        status = None
        if batch.step is Step.CREATING:
            await settled(batch)
            status = await api.find(batch, known)
        if status is None:
            batch = self._save(batch, step=Step.CREATING, began=time.time())
            status = await api.create(batch, content, known)
        return self._save(batch, step=Step.RUNNING, **status.changes)

    async def _upload(self, api: FileBatches, batch: RemoteBatch, content: Content) -> RemoteBatch:
        file = None
        if batch.step is Step.UPLOADING:
            await settled(batch)
            file = await api.find_upload(batch, content)
        if file is None:
            batch = self._save(batch, step=Step.UPLOADING, began=time.time())
            file = await api.upload(batch, content)
        return self._save(batch, step=Step.UPLOADED, file=file)

    def _content(self, api: BatchApi, batch: RemoteBatch) -> Content:
        def lines() -> Iterator[bytes]:
            for index in batch.ranges:
                _, request = prepared(self._client, self._rows.row_at(index))
                assert isinstance(request.body, bytes)
                yield api.encode(batch.token, batch.endpoint, index, request.body)

        return api.content(batch, lines)

    def _save(self, batch: RemoteBatch, **changes: object) -> RemoteBatch:
        batch = self._folder.save(batch, **changes)
        self._batches[batch.number] = batch
        return batch


async def settled(batch: RemoteBatch) -> None:
    """Wait until requests from a killed process can be found."""
    await asyncio.sleep(min(SETTLED_AFTER, max(0.0, batch.began + SETTLED_AFTER - time.time())))


def ids_of(batches: Iterable[RemoteBatch]) -> frozenset[str]:
    return frozenset(batch.id for batch in batches if batch.id)
