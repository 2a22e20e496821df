"""Divide rows into batches: one endpoint and model each, within the limits of the provider."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from stormbreak.batch.input.index import Rows
from stormbreak.batch.input.row import MESSAGES, Row
from stormbreak.batch.remote.anthropic_api import MessageBatches
from stormbreak.batch.remote.api import BatchApi
from stormbreak.batch.remote.caller import Caller
from stormbreak.batch.remote.openai_api import FileBatches
from stormbreak.cost.price_source import PriceOf, known_max_cost
from stormbreak.cost.token_prices import Service, at_service
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, quote
from stormbreak.http.client import AsyncClient
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.request import RequestTemplate, without_stream

_TOKEN = "0" * 16  # as long as any later one


def api_for(endpoint: str, caller: Caller) -> BatchApi:
    return MessageBatches(caller) if endpoint == MESSAGES else FileBatches(caller)


def prepared(client: AsyncClient, row: Row) -> tuple[RequestTemplate, PreparedRequest]:
    """Prepare the request of a row, without streaming."""
    if row.fields.stream:
        template = RequestTemplate(row.endpoint, without_stream(row.body))
    else:
        template = RequestTemplate(row.endpoint, row.body, fields=row.fields)
    return template, client.prepare(template)


@dataclass(slots=True)
class Plan:
    """The rows of a batch, or one of them: `size` bytes, and a cost of at most `max_usd` (None: unknown)."""

    endpoint: str
    model: str
    indices: "array[int]"
    size: int
    weight: int
    max_usd: Decimal | None

    def add(self, row: "Plan") -> None:
        self.indices += row.indices
        self.size += row.size
        self.weight += row.weight
        if self.max_usd is not None:
            self.max_usd = None if row.max_usd is None else self.max_usd + row.max_usd


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
        """Yield each batch when it is full; at the end, the partial ones in the order in which they began.

        Raises ConfigurationError that names a row that cannot be in a batch.
        """
        unfinished: dict[tuple[str, str], Plan] = {}
        for index in indices:
            row = self._measured(self._rows.row_at(index))
            kind = row.endpoint, row.model
            plan = unfinished.get(kind)
            if plan is not None and self._fits(plan, row):
                plan.add(row)
                continue
            if plan is not None:
                yield unfinished.pop(kind)
            unfinished[kind] = row
        yield from unfinished.values()

    def _fits(self, plan: Plan, row: Plan) -> bool:
        api = api_for(plan.endpoint, self._caller)
        return (
            plan.size + row.size <= api.max_bytes
            and plan.weight + row.weight <= api.max_rows
            and (self._batch_size is None or len(plan.indices) < self._batch_size)
        )

    def _measured(self, row: Row) -> Plan:
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
        indices, weight = array("I", [row.index]), request.inputs or 1
        return Plan(row.endpoint, template.model, indices, size, weight, usd)

    def _unfit(self, row: Row, why: str) -> ConfigurationError:
        where = f"{path_of(self._rows.name)}: row {quote(row.custom_id)}"
        return ConfigurationError(f"{where}: {why}")
