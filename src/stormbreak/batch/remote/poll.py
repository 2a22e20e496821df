"""Ask how far the batches of an OUTPUT are, once or until all have ended; cancel them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from stormbreak.batch.remote.api import RemoteStatus, UnsureError
from stormbreak.batch.remote.caller import Caller, RemoteError
from stormbreak.batch.remote.planning import api_for
from stormbreak.batch.remote.submit import NOT_CREATED, ids_of, settled
from stormbreak.batch.store.provider_batches import BatchFolder, RemoteBatch, Step
from stormbreak.escape import path_of
from stormbreak.types import Verdict

FIRST_PAUSE = 2.0  # seconds between two looks at the first ...
PAUSE_GROWTH = 1.5
MAX_PAUSE = 60.0  # ... and at the last

OnPoll = Callable[[Sequence[RemoteBatch]], None]


class Poller:
    """Polls the batches of one OUTPUT, whose lock is held."""

    def __init__(self, caller: Caller, folder: BatchFolder) -> None:
        self._caller = caller
        self._folder = folder

    async def poll(
        self, *, wait: bool = False, on_poll: OnPoll = lambda _: None
    ) -> list[RemoteBatch]:
        """Ask about all that may still change; with `wait`, until nothing does: pauses grow from two seconds to a minute."""
        pause = FIRST_PAUSE
        while True:
            batches = [await self._polled(batch) for batch in self._folder.read()]
            on_poll(batches)
            if not (wait and any(may_change(batch) for batch in batches)):
                return batches
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE, PAUSE_GROWTH * pause)

    async def cancel(self) -> list[RemoteBatch]:
        """Cancel all that run, and give up what was not created; return all batches."""
        for batch in self._folder.read():
            if batch.step is Step.CREATING:  # what is not found now is given up
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
                how = f"if it is gone, remove {file}, and its rows can be sent again"
                raise RemoteError(f"{error}; {how}", error.verdict) from None
            raise
        return self._heard(batch, status)

    def _heard(self, batch: RemoteBatch, status: RemoteStatus) -> RemoteBatch:
        """Write down what the provider says."""
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


UNSURE = "unsure"  # the status of a batch that the provider may have


def is_unsure(batch: RemoteBatch) -> bool:
    """Whether the provider may have it, and its results will tell."""
    return batch.step is Step.CREATING and batch.status == UNSURE


def may_change(batch: RemoteBatch) -> bool:
    """Whether polling it again may bring news."""
    return batch.step is Step.RUNNING or is_unsure(batch)
