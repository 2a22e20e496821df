"""Compute the cost of a batch from its files: answers by the usage in OUTPUT, other attempts by the run file.

Only the provider knows the cost of an attempt that was cancelled, or failed after it was sent, so waste is given as a
range. Reading changes nothing, and works during a run.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from pathlib import Path

from stormbreak import file_reader
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.run_file import read_existing_run
from stormbreak.cost.accounts import Account, ModelUsage, Span, TokenSum
from stormbreak.cost.price_lookup import PriceLookup, load_lookup, same
from stormbreak.cost.token_prices import Prices, Service, Tokens, at_service
from stormbreak.cost.usage_records import Use, read_answers, sum_usage
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.escape import path_of, system_errors_at

_NONE = Tokens(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """The cost of the attempts at one model of a provider; sums are unknown without `prices`.

    The usage of `estimated` answers is an estimate. `besides` are attempts without an answer: of these, the `free` ones
    were refused or never sent, and the `unbounded` ones have no bound and are not in any span.
    """

    provider: str
    model: str
    service: Service = Service.STANDARD
    prices: Prices | None
    answers: int = 0
    estimated: int = 0
    tokens: Tokens = _NONE
    useful: Decimal | None = None
    wasted: Span | None = None
    besides: int = 0
    free: int = 0
    unbounded: int = 0

    @property
    def in_all(self) -> Span | None:
        if self.useful is None or self.wasted is None:
            return None
        return Span(self.useful + self.wasted.min_usd, self.useful + self.wasted.max_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """A batch, by model; `waste` is by reason. `notes` name missing and estimated parts."""

    output: str
    models: tuple[ModelCost, ...]
    waste: Mapping[str, TokenSum] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def lookup_of(output: Path, given: tuple[str, ...] = ()) -> PriceLookup:
    """Load these price files, or else those of the last run on `output`, for lookup.

    Raises ConfigurationError if there is no run file, or a price file cannot be read.
    """
    if given:
        return load_lookup(given)
    run = read_existing_run(BatchPaths.of(output))
    try:
        return load_lookup(run.flags.prices if run.flags else ())
    except ConfigurationError as error:
        why = f"{error}; the last run on {path_of(output)} used this file: give --prices"
        raise ConfigurationError(why) from None


def read_cost(output: Path, lookup: PriceLookup) -> BatchCost:
    """Compute the cost of the batch that writes `output`, at the prices in `lookup`.

    Raises ConfigurationError if there is no run file, or a line of OUTPUT is invalid.
    """
    files = BatchPaths.of(output)
    run = read_existing_run(files)
    uses = _uses(files.output)
    account = run.account
    models = tuple(_models(uses, account.spent, lookup))
    return BatchCost(
        output=str(output), models=models, waste=account.waste, notes=tuple(_notes(models, account))
    )


def _uses(output: Path) -> tuple[Use, ...]:
    with (
        system_errors_at(output),
        errors_at(path_of(output)),
        suppress(FileNotFoundError),
        file_reader.opened(output) as file,
    ):
        return sum_usage(read_answers(file))
    return ()


def _models(
    uses: Iterable[Use], spent: tuple[ModelUsage, ...], lookup: PriceLookup
) -> Iterator[ModelCost]:
    """One for each requested model, then one for each other model that answered."""
    left = list(uses)
    for each in spent:
        own = [use for use in left if _answers(use, each, spent)]
        left = [use for use in left if use not in own]
        yield _cost(each, own, lookup)
    provider = spent[0].provider if spent else ""
    for use in left:
        new = ModelUsage(provider=provider, model=use.kind.model, service=use.kind.service)
        yield _cost(new, [use], lookup)


def _answers(use: Use, spent: ModelUsage, all_: tuple[ModelUsage, ...]) -> bool:
    """Whether these answers come from that model, which may answer under a dated name, or another one."""
    if (use.kind.service is Service.BATCH) != (spent.service is Service.BATCH):
        return False
    all_ = tuple(each for each in all_ if each.service is spent.service)
    name = use.kind.model
    if len([each for each in all_ if each.useful.attempts or each.used_uncounted.attempts]) == 1:
        return bool(spent.useful.attempts or spent.used_uncounted.attempts)
    return same(name, spent.model) or (
        name.startswith(spent.model) and not any(same(name, each.model) for each in all_)
    )


def _cost(spent: ModelUsage, uses: list[Use], lookup: PriceLookup) -> ModelCost:
    prices = lookup.price_of(spent.provider, spent.model)
    tokens = reduce(Tokens.plus, (use.tokens for use in uses), _NONE)
    answers = sum(use.requests for use in uses)
    useful = wasted = None
    if prices is not None and prices.standard.output is None and tokens.output:
        prices = None  # a partial price is no price
    own = at_service(prices, spent.service)
    if prices is not None and own is not None:
        useful = sum((_of_answers(prices, use) for use in uses), Decimal(0))
        least = spent.wasted.cost(own)
        wasted = Span(least, least + spent.wasted_open.max_cost(own))
    besides = spent.wasted.attempts + spent.wasted_open.attempts + spent.free
    return ModelCost(
        provider=spent.provider,
        model=spent.model,
        service=spent.service,
        prices=prices,
        answers=answers,
        estimated=sum(use.estimated for use in uses),
        tokens=tokens,
        useful=useful,
        wasted=wasted,
        besides=besides,
        free=spent.free,
        unbounded=spent.unbounded,
    )


def _of_answers(prices: Prices, use: Use) -> Decimal:
    rates = prices.rates(use.kind.service) or prices.standard
    return rates.cost(use.tokens, prompt=use.tokens.input / Decimal(use.requests or 1))


def _notes(models: tuple[ModelCost, ...], account: Account) -> Iterator[str]:
    for name in dict.fromkeys(f"{m.model} at {m.provider}" for m in models if m.prices is None):
        yield f"No price is known for {name}: give a price file with --prices."
    if unbounded := sum(each.unbounded for each in models):
        yield (
            f"{unbounded:,} attempts without an answer have no bound such as max_tokens: if they are billed,"
            " the cost is higher than shown."
        )
    if estimated := sum(each.estimated for each in models):
        yield f"{estimated:,} answers do not report their usage; it is estimated."
    if account.killed:
        most = f"; that is {account.lost:f} USD at the most" if account.lost else ""
        yield (
            f"{account.killed:,} run(s) were killed: requests lost in their last seconds are not counted{most}."
        )
    if account.at_work:
        yield "A run is active, or was killed: its latest requests are not counted yet."
    if not account.spent:
        yield "The run file does not record attempts without an answer; only answers are counted."
    if any(each.prices is not None and each.prices.standard.input.steps for each in models):
        yield "Long prompts have their own prices; these are chosen by the mean length of the prompts."
