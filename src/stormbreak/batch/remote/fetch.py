"""Write the results of batches that have ended into the journal of their OUTPUT, as `batch run` writes answers and failures.

The provider may list results in any order, twice, for rows that are not in the batch, or not at all: each row gets one
result, and oddities are counted. Rows without a result, or expired or cancelled, stay for `batch run` or another `batch
submit`. A batch whose file lacks results that the provider has counted stays open, unless the caller accepts that.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.json import encode

from stormbreak.batch.input.index import Rows
from stormbreak.batch.remote.api import BatchApi, BatchError, RemoteStatus
from stormbreak.batch.remote.caller import Caller
from stormbreak.batch.remote.planning import api_for, prepared
from stormbreak.batch.running.failure_reasons import FailureReasons, failure_of
from stormbreak.batch.store.output_files import Store
from stormbreak.batch.store.output_line import Response
from stormbreak.batch.store.provider_batches import BatchFolder, RemoteBatch, Step
from stormbreak.batch.store.run_file import Run, bill_batch
from stormbreak.core.row_schedule import Final
from stormbreak.cost.accounts import Account, Bill, ModelUsage
from stormbreak.cost.token_prices import Service
from stormbreak.http.response import Response as ReceivedResponse
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import VERDICT_OK, CallResult, Outcome, Usage, Verdict

TRIES = 3  # downloads of incomplete results
_FLUSH_EVERY = 1_000  # lines

UNKNOWN, REPEATED, UNREADABLE, UNPROCESSED, MISSING = (
    "unknown", "repeated", "unreadable", "not processed", "missing",
)  # fmt: skip
"""What can be wrong with results: a line without a row in the batch, a second line for a row, a line that is not a
result; a row that the provider has not processed, or that has no line.
"""


@dataclass(kw_only=True)
class Fetched:
    """The result of one batch. `odd` counts by the words above."""

    batch: RemoteBatch
    answered: int = 0
    failed: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    errors: tuple[BatchError, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether its results are in the journal, so that its rows are free."""
        return self.batch.step is Step.DONE


class Fetcher:
    """Fetches the batches of one OUTPUT, which is open."""

    def __init__(self, caller: Caller, rows: Rows, store: Store, folder: BatchFolder) -> None:
        self.run: Run = store.run
        self.reasons = FailureReasons()
        self._caller = caller
        self._client = caller.client
        self._rows = rows
        self._store = store
        self._folder = folder

    async def fetch(self, batch: RemoteBatch, *, accept_partial: bool) -> Fetched:
        """Write the results of a batch that has ended; it is done unless expected results are missing.

        Raises RemoteError if the results are not available.
        """
        api = api_for(batch.endpoint, self._caller)
        status = await api.status(batch)
        batch = self._folder.save(batch, **status.changes)
        results = await self._download(api, batch, status)
        fetched = Fetched(batch=batch, odd=results.odd, errors=status.errors)
        usage = _Usage(self._client.target(batch.model).provider, batch.model)
        is_last = results.is_whole or accept_partial
        try:
            self._write(results, fetched, usage, is_last=is_last)
            if not status.outputs:
                self._fail_lines(batch, fetched)
            self._store.journal.flush()
            if is_last:
                self._lose(results, usage)
                account = usage.account()
                self.run = bill_batch(self._store.files, self.run, batch.token, account)
                self._folder.drop_results(batch)  # do this first: nothing looks for them afterwards
                fetched.batch = self._folder.save(batch, step=Step.DONE)
        finally:
            self._folder.drop_results(batch)
        return fetched

    async def _download(
        self, api: BatchApi, batch: RemoteBatch, status: RemoteStatus
    ) -> "_Results":
        for _ in range(TRIES):
            path = self._folder.results_file(batch)
            with path.open("r+b") as file:
                for endpoint in status.outputs:
                    await api.download(endpoint, file)
                    file.write(b"\n")  # the last line may lack its line end
            results = _Results(api, batch, path, len(self._rows))
            if results.is_whole:
                break
        return results

    def _write(
        self, results: "_Results", fetched: Fetched, usage: "_Usage", *, is_last: bool
    ) -> None:
        """Write answers. Write failures only the first time that results are fetched: a failure would count twice."""
        journal, ended = self._store.journal, bytearray(len(self._rows))
        for number, (index, response) in enumerate(results, 1):
            seen = ended[index] > 0
            is_answer = self._write_row(index, response, usage, seen=seen, fails=is_last)
            if is_answer is not None:
                if ended[index]:  # failed, on an earlier line
                    fetched.failed -= 1
                fetched.answered += is_answer
                fetched.failed += not is_answer
                ended[index] = 1
            if number % _FLUSH_EVERY == 0:
                journal.flush()

    def _write_row(
        self, index: int, response: HttpResponse, usage: "_Usage", *, seen: bool, fails: bool
    ) -> bool | None:
        """Write the result of a row; return whether it is an answer, None if the row has one or failed before."""
        journal, row = self._store.journal, self._rows.row_at(index)
        _, request = prepared(self._client, row)
        outcome = self._client.outcome_of(response, request)
        ok = outcome.verdict is VERDICT_OK
        if seen and (not ok or journal.is_done(index)):
            return None
        usage.add(outcome)
        if journal.is_done(index):  # by an earlier call that was killed
            return True
        received = outcome.value
        assert isinstance(received, ReceivedResponse)
        written = Response(
            status_code=response.status,
            request_id=received.parsed.request_id,
            body=received.body,
            service_tier=Service.BATCH.value,
        )
        if ok:
            journal.succeed(row, written)
        elif fails:
            self.reasons.add(outcome, received.body, row.body)
            ended = CallResult(outcome, 1)
            fate = Final(ok=False, attempts=1, maybe_processed=int(outcome.maybe_processed))
            journal.fail(row, failure_of(ended, fate, time.monotonic()), written)
        return ok

    def _fail_lines(self, batch: RemoteBatch, fetched: Fetched) -> None:
        """Record a failure for the rows that made the provider refuse the whole batch."""
        ranges = batch.ranges
        for error in fetched.errors:
            index = None if error.line is None else ranges.at(error.line)
            if index is None or self._store.journal.is_done(index):
                continue
            code = error.code if _CODE.fullmatch(error.code) else None
            outcome = Outcome(Verdict.INVALID, code=code, detail="the batch was refused for it")
            row = self._rows.row_at(index)
            body = encode({"error": {"message": error.message}})
            self.reasons.add(outcome, body, row.body)
            fate = Final(ok=False, attempts=1)
            failure = failure_of(CallResult(outcome, 1), fate, time.monotonic())
            self._store.journal.fail(row, failure)
            fetched.failed += 1

    def _lose(self, results: "_Results", usage: "_Usage") -> None:
        """Count the possible cost of rows whose results the provider has counted but does not give."""
        for index, _ in zip(results.missing(), range(results.lacking), strict=False):
            template, _ = prepared(self._client, self._rows.row_at(index))
            usage.lose(template.token_bound())


_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


class _Usage:
    """The usage of the rows of a batch."""

    def __init__(self, provider: str, model: str) -> None:
        self._bill = Bill()
        self._nothing = ModelUsage(provider=provider, model=model, service=Service.BATCH)

    def add(self, outcome: Outcome) -> None:
        bill, ok = self._bill, outcome.verdict is VERDICT_OK
        if outcome.usage is not None:
            (bill.useful if ok else bill.wasted).add(outcome.usage)
        elif ok:
            bill.used_uncounted.add(None)
            bill.unbounded += 1
        else:
            bill.free += 1

    def lose(self, bound: Usage | None) -> None:
        """Add a row that may have been processed."""
        self._bill.wasted_open.add(bound)
        self._bill.unbounded += bound is None

    def account(self) -> Account:
        usage = self._nothing.plus(self._bill)
        waste = self._bill.wasted + self._bill.wasted_open
        return Account(spent=(usage,), waste={_WASTE: waste} if waste.attempts else {})


_WASTE = "batch"


class _Results:
    """The downloaded results of a batch, checked once for missing and odd ones. Iterate for the results."""

    def __init__(self, api: BatchApi, batch: RemoteBatch, path: Path, rows: int) -> None:
        self.odd: Counter[str] = Counter()
        self._api = api
        self._batch = batch
        self._path = path
        self._ranges = batch.ranges
        self._marks = bytearray(rows)  # 1: not processed, 2: has a result
        for index, response in self._lines(count=True):
            mark = 1 if response is None else 2
            if self._marks[index] >= mark:
                self.odd[REPEATED] += 1
            self._marks[index] = max(mark, self._marks[index])
        self.odd[UNPROCESSED] = self._marks.count(1)
        self.odd[MISSING] = sum(1 for _ in self.missing())

    @property
    def lacking(self) -> int:
        """The number of results that the provider counted but did not give. In a completed batch each row has one."""
        counted = self._batch.counts.results
        if self._batch.status == _COMPLETED:
            counted = max(counted, len(self._ranges) - self._marks.count(1))
        return max(0, counted - self._marks.count(2))

    @property
    def is_whole(self) -> bool:
        return not (self.lacking or self.odd[UNREADABLE])

    def missing(self) -> Iterator[int]:
        return (index for index in self._ranges if not self._marks[index])

    def __iter__(self) -> Iterator[tuple[int, HttpResponse]]:
        for index, response in self._lines(count=False):
            if response is not None:
                yield index, response

    def _lines(self, *, count: bool) -> Iterator[tuple[int, HttpResponse | None]]:
        now = time.time()
        with self._path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    line.decode()  # the decoder lets invalid UTF-8 pass inside a raw value
                    result = self._api.result(line, now)
                except (ValueError, RecursionError):
                    self.odd[UNREADABLE] += count
                    continue
                index = self._index_of(result.custom_id)
                if index is None:
                    self.odd[UNKNOWN] += count
                else:
                    yield index, result.response

    def _index_of(self, custom_id: str) -> int | None:
        token, _, number = custom_id.rpartition("-")
        if token != self._batch.token or not (number.isascii() and number.isdecimal()):
            return None
        index = int(number) if len(number) <= _MAX_DIGITS else -1
        return index if index in self._ranges else None


_MAX_DIGITS = 10
_COMPLETED = "completed"
