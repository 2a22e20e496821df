"""Rows of a Ray dataset, answered by a model: `dataset.map_batches(Ask, ...)`.

::

    answered = dataset.map_batches(
        Ask,
        fn_constructor_kwargs={"provider": "openai", "model": "gpt-4.1-mini", "prompt": "Sum up {title}", "id": "id",
                               "journal": "/shared/run1", "actors": 4},
        batch_size=128,
        concurrency=4,
    )

`Ask` does not need Ray itself: it is an asynchronous callable class. See docs/many-machines.md.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from stormbreak.batch.input.row import RowError
from stormbreak.batch.input.table_requests import RequestMaker, plain_value
from stormbreak.batch.run_options import TableOptions
from stormbreak.batch.running.rows_in_flight import RowCall, RowCalls
from stormbreak.batch.running.runner import TICK_EVERY
from stormbreak.batch.store.durable_file import AppendFile
from stormbreak.config.load import resolve_policy
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.policy import Policy
from stormbreak.core.row_schedule import RowAttempt
from stormbreak.errors import AuthenticationError, BillingError, CallError, ConfigurationError
from stormbreak.escape import path_of
from stormbreak.events import Event, Queued, RetryPlanned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.types import FALLBACK, TARGET

ADDED = ("answer", "error", "verdict", "input_tokens", "output_tokens", "cost", "attempts")
"""The added columns. `error` is None for an answer; `cost` is in US dollars, None if unknown."""

_FINAL = (AuthenticationError, BillingError)  # errors that would hit every row: the job ends


def _policy_of_one(policy: Policy | str, actors: int) -> Policy:
    """Return the policy of one of `actors`."""
    if actors < 1:
        raise ConfigurationError(f"actors must be at least 1, got {actors}")
    chosen = policy if isinstance(policy, Policy) else resolve_policy(policy)
    return replace(chosen, process_share=chosen.process_share / actors)


class Ask:
    """Asks a model about every row of the batches that one actor gets: one client, one loop, all batches in flight together.

    A row that fails has an `error`; it never fails the job. An error of every row does: a wrong option, key or account.
    """

    def __init__(  # noqa: PLR0913 - keywords are cheap to read
        self,
        *,
        model: str,
        provider: str | None = None,
        base_url: str | None = None,
        api_key_env: str | None = None,
        policy: Policy | str = "batch",
        prompt: str | None = None,
        system: str | None = None,
        template: str | None = None,
        body: str | None = None,
        id: str | None = None,  # noqa: A002 - as in `stormbreak batch run`
        url: str | None = None,
        max_output_tokens: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        actors: int = 1,
        fleet: FleetPolicy | str | None = None,
    ) -> None:
        """Create it in each actor; raise ConfigurationError that names a wrong argument.

        Args:
            model: the model to ask.
            provider: name of a preset, such as "openai".
            base_url: where to send instead, up to and including "/v1".
            api_key_env: name of the environment variable that holds the key.
            policy: a `Policy`, a preset, or the path of a policy file.
            prompt: text of the request, with columns in braces.
            system: the system prompt, with columns in braces.
            template: path of a Jinja2 template instead of `prompt`.
            body: a column of whole request bodies instead of `prompt`.
            url: the endpoint, such as "/v1/responses"; by default "/v1/chat/completions".
            id: the column that identifies a row; without it, rows with the same request share one answer.
            max_output_tokens: the limit of each answer; `/v1/messages` needs it.
            journal: a folder that all actors share, with their answers: a row that is answered there is not sent again.
            actors: the number of actors that divide the counted limits of the policy; with a fleet, only while its
                store does not answer.
            fleet: the store of a fleet, or a `FleetPolicy`: actors share limits (docs/fleet.md).
        """
        options = TableOptions(
            prompt=prompt, system=system, template=template, body=body, id=id, url=url
        )
        self._make = RequestMaker(
            options, None, "the dataset", max_tokens=max_output_tokens, name_of=str
        )
        self._client = AsyncClient(
            provider,
            base_url=base_url,
            api_key_env=api_key_env,
            model=model,
            policy=_policy_of_one(policy, actors),
            fleet=fleet,
        )
        self._model = model
        self._has_ids = id is not None
        self._journal = None if journal is None else _Journal(Path(journal))
        self._asked: dict[bytes, asyncio.Task[_Answer]] = {}
        self._calls = RowCalls(self._client)
        self._client.subscribe(self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Sent | Queued | RetryPlanned):
            self._calls.hear(event)

    async def __call__(self, batch: Any) -> dict[str, Any]:
        """Answer the rows of a batch: columns as a dict, a pandas frame or an Arrow table.

        Raises:
            AuthenticationError, BillingError: no row can be answered.
        """
        columns = _columns(batch)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if self._journal is not None:
            self._journal.refresh()
        async with self._ending_stragglers():
            answers = await asyncio.gather(*(self._answer(row) for row in rows))
        if self._journal is not None:
            self._journal.sync()
        added = {name: [getattr(answer, name) for answer in answers] for name in ADDED}
        return {**columns, **added}

    async def _answer(self, row: Mapping[str, Any]) -> "_Answer":
        try:
            request = self._make(_plain(row), 0)
        except RowError as error:
            return _Answer(error=str(error), verdict="invalid")
        body = {**request["body"], "model": request["body"].get("model", self._model)}
        key = _digest(request["custom_id"] if self._has_ids else "", body)
        known = None if self._journal is None else self._journal.find(key)
        if known is not None:
            return known
        asking = self._asked.get(key)
        if asking is None:
            endpoint = request["url"].removeprefix("/v1").lstrip("/")
            asking = self._asked[key] = asyncio.create_task(self._ask(endpoint, body, key))
            asking.add_done_callback(lambda _: self._asked.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, endpoint: str, body: dict[str, Any], key: bytes) -> "_Answer":
        try:
            answer = await self._request(endpoint, body)
        except _FINAL:
            raise
        except CallError as error:
            return _Answer(error=str(error), verdict=str(error.verdict), attempts=error.attempts)
        if self._journal is not None:
            self._journal.keep(key, answer)
        return answer

    async def _request(self, endpoint: str, body: dict[str, Any]) -> "_Answer":
        """Send a request; send it again if an attempt was given up because it took far too long."""
        task, rounds, given_up = asyncio.current_task(), 0, 0
        assert task is not None
        key = secrets.token_hex(16)
        while True:
            self._calls[task] = call = RowCall(RowAttempt(index=0, rounds=rounds))
            call.endpoint = endpoint
            try:
                answer = await self._client.request(endpoint, body, idempotency_key=key)
            except asyncio.CancelledError:
                if not call.given_up or task.uncancel():
                    raise
                rounds, given_up = rounds + 1, given_up + call.attempts
            else:
                if answer.source in (TARGET, FALLBACK):
                    self._calls.answered(call)
                return _Answer(
                    answer=answer.text,
                    input_tokens=answer.usage.input_tokens,
                    output_tokens=answer.usage.output_tokens,
                    cost=None if answer.cost is None else float(answer.cost),
                    attempts=answer.attempts + given_up,
                )
            finally:
                del self._calls[task]

    @asynccontextmanager
    async def _ending_stragglers(self) -> AsyncIterator[None]:
        """Give up attempts that take far too long, as a batch does (ADR 64): each would delay its rows for minutes."""

        async def end_them() -> None:
            while True:
                await asyncio.sleep(TICK_EVERY)
                all_sent = all(call.in_flight is not None for call in self._calls.values())
                self._calls.end_stragglers(alone=all_sent)

        ending = asyncio.create_task(end_them())
        try:
            yield
        finally:
            ending.cancel()


class _Answer(msgspec.Struct, omit_defaults=True):
    """The columns to add to a row."""

    answer: str | None = None
    error: str | None = None
    verdict: str = "ok"
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    attempts: int = 0


class _Line(msgspec.Struct):
    key: str
    answer: _Answer


class _Journal:
    """The answers of all actors, in a folder: each appends to its own file, and reads those of the others.

    Ray repeats a batch when its actor has died. A line that was cut off then is not an answer.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"journal: {path_of(folder)}: {error.strerror}") from None
        self._folder = folder
        self._own = folder / f"{secrets.token_hex(8)}.jsonl"
        self._file = AppendFile(self._own)
        self._answers: dict[bytes, _Answer] = {}
        self._read: dict[Path, int] = {}  # bytes
        self._decoder = msgspec.json.Decoder(_Line)

    def refresh(self) -> None:
        """Read the new lines of other actors."""
        for path in self._folder.glob("*.jsonl"):
            begun = self._read.get(path, 0)
            if path == self._own or path.stat().st_size <= begun:
                continue
            with path.open("rb") as file:
                file.seek(begun)
                whole, _, _ = file.read().rpartition(b"\n")
            self._read[path] = begun + len(whole) + bool(whole)
            for line in whole.splitlines():
                try:
                    read = self._decoder.decode(line)
                except msgspec.MsgspecError:
                    continue
                self._answers[bytes.fromhex(read.key)] = read.answer

    def find(self, key: bytes) -> _Answer | None:
        """Return the answer to a request, if any actor has it."""
        return self._answers.get(key)

    def keep(self, key: bytes, answer: _Answer) -> None:
        self._file.append(msgspec.json.encode(_Line(key.hex(), answer)) + b"\n")
        self._answers[key] = answer

    def sync(self) -> None:
        self._file.sync()


def _columns(batch: Any) -> dict[str, Sequence[Any]]:
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "to_pydict"):  # of pyarrow
        return dict(batch.to_pydict())
    return {str(name): batch[name].tolist() for name in batch.columns}  # of pandas


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the numpy arrays and scalars that Ray uses for lists and numbers; raise RowError for other values."""
    try:
        plain: dict[str, Any] = msgspec.to_builtins(row, enc_hook=plain_value)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise RowError(str(error)) from None
    return plain


def _digest(custom_id: str, body: Mapping[str, Any]) -> bytes:
    digest = blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\0" + msgspec.json.encode(body, order="sorted"))
    return digest.digest()
