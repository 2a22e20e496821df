"""Divide rows into batches: one endpoint and model each, within the limits of the provider."""

from array import array
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.request import MESSAGES, Row
from stormbreak.batch.remote.anthropic_api import MessageBatches
from stormbreak.batch.remote.api import BatchApi
from stormbreak.batch.remote.caller import Caller
from stormbreak.batch.remote.openai_api import FileBatches
from stormbreak.cost.price_source import PriceOf, known_max_cost
from stormbreak.cost.token_prices import Service, at_service
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quoted
from stormbreak.http.client import AsyncClient
from stormbreak.http.models import PreparedRequest
from stormbreak.http.request import RequestTemplate, without_stream

_TOKEN = "0" * 16  # as long as any other one


def api_for(endpoint: str, caller: Caller) -> BatchApi:
    """Return the batch API that takes requests for this endpoint."""
    return MessageBatches(caller) if endpoint == MESSAGES else FileBatches(caller)


def prepared(client: AsyncClient, row: Row) -> tuple[RequestTemplate, PreparedRequest]:
    """Prepare the request of a row; its answer comes whole."""
    if row.fields.stream:
        template = RequestTemplate(row.endpoint, without_stream(row.body))
    else:
        template = RequestTemplate(row.endpoint, row.body, fields=row.fields)
    return template, client.prepare(template)


class Plan:
    """The rows of a batch; it has `size` bytes, and costs at most `max_usd` (None: not known)."""

    def __init__(self, endpoint: str, model: str) -> None:
        self.endpoint = endpoint
        self.model = model
        self.indices = array("I")
        self.size = 0
        self.weight = 0
        self.max_usd: Decimal | None = Decimal(0)


class _Measured(NamedTuple):
    endpoint: str
    model: str
    size: int
    weight: int
    max_usd: Decimal | None


class Planner:
    """Divides rows into batches of at most `batch_size` rows."""

    def __init__(
        self, client: AsyncClient, rows: Rows, price_of: PriceOf, batch_size: int | None
    ) -> None:
        self._client = client
        self._rows = rows
        self._price_of = price_of
        self._batch_size = batch_size
        self._caller = Caller(client, grace=0)  # sends nothing

    def plans(self, indices: Iterable[int]) -> Iterator[Plan]:
        """Yield each batch when it is full; last those that are not, in the order in which they were begun.

        Raises:
            ConfigurationError: names a row that cannot be in a batch.
        """
        unfinished: dict[tuple[str, str], Plan] = {}
        for index in indices:
            row = self._measured(self._rows.row_at(index))
            kind = row.endpoint, row.model
            plan = unfinished.get(kind)
            if plan is not None and not self._fits(plan, row):
                yield unfinished.pop(kind)
                plan = None
            if plan is None:
                plan = unfinished[kind] = Plan(*kind)
            plan.indices.append(index)
            plan.size += row.size
            plan.weight += row.weight
            known = plan.max_usd is not None and row.max_usd is not None
            plan.max_usd = plan.max_usd + row.max_usd if known else None  # type: ignore[operator]
        yield from unfinished.values()

    def _fits(self, plan: Plan, row: _Measured) -> bool:
        api = api_for(plan.endpoint, self._caller)
        return (
            plan.size + row.size <= api.max_bytes
            and plan.weight + row.weight <= api.max_rows
            and (self._batch_size is None or len(plan.indices) < self._batch_size)
        )

    def _measured(self, row: Row) -> _Measured:
        template, request = prepared(self._client, row)
        assert isinstance(request.body, bytes)
        api = api_for(row.endpoint, self._caller)
        target = self._client.target(template.model)
        if target.provider == "anthropic" and row.endpoint != MESSAGES:
            raise self._unfit(row, "Anthropic's batches take requests for /v1/messages: --url")
        size = len(api.encode(_TOKEN, row.endpoint, row.index, request.body)) + 1
        if size > api.max_bytes:
            raise self._unfit(row, f"larger than a batch may be ({api.max_bytes:,} bytes)")
        bound, usd = template.token_bound(), None
        if bound is not None:
            prices = at_service(self._price_of(target.provider, target.model), Service.BATCH)
            usd = known_max_cost(prices, bound)
        return _Measured(row.endpoint, template.model, size, request.inputs or 1, usd)

    def _unfit(self, row: Row, why: str) -> ConfigurationError:
        where = f"{path_of(self._rows.name)}: row {quoted(row.custom_id)}"
        return ConfigurationError(f"{where}: {why}")
