"""The result of a run, for people and for scripts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stormbreak.batch.export.export import read_table
from stormbreak.batch.parquet import to_polars
from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.running.runner import End, Runner
from stormbreak.batch.running.stats import TOTALS
from stormbreak.batch.running.workers import Workers
from stormbreak.batch.store.reader import Answered, Failed, read_answers, read_failures
from stormbreak.cost.accounts import Cost, SpendLimit
from stormbreak.errors import ConfigurationError
from stormbreak.hidden_keys import hidden
from stormbreak.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Rows and cost are of all runs on this OUTPUT, everything else is of this run. Times are seconds."""

    input: str
    output: str
    base_url: str
    end: str  # finished, refused, spent, unreachable, interrupted or worker_lost
    refused_by: Verdict | None  # the final verdict that stopped the run
    connect_error: str  # of the last attempt that did not reach an HTTP server
    reason: Reason | None  # of most failed rows of this run, or why it stopped
    total: int
    successful: int
    failed: int
    left: int
    retried: int  # rows that failed in earlier runs and were sent again
    recovered: int  # those of them that are now answered
    answered: int  # rows answered by this run
    reused: (
        int  # those that were not sent: their answers come from the cache or from identical rows
    )
    from_fallback: int  # those answered by a fallback
    elapsed: float
    throughput: float  # answered rows per second
    attempts: int
    retries: int
    maybe_processed: int  # failed attempts of this run that may have been billed
    verdicts: Mapping[str, int]  # of this run's attempts
    circuits_opened: int
    cooldowns: int
    waited: float  # seconds spent in queues, cooldowns and backoff, over all calls
    input_tokens: int
    output_tokens: int
    max_cost: Decimal | None  # maximum US dollars of all runs
    spent: Decimal | None  # maximum US dollars, if there is a limit
    cost: Cost

    @property
    def complete(self) -> bool:
        return not (self.failed or self.left)

    def answers(self) -> Iterator[Answered]:
        """Read the answers of all runs on this OUTPUT, one by one."""
        return read_answers(self.output)

    def failures(self) -> Iterator[Failed]:
        """Read the rows that failed, and why."""
        return read_failures(self.output)

    def to_arrow(self) -> Any:
        """Read the rows and their results, in the order of the rows, as a pyarrow table."""
        return read_table(self.output)

    def to_pandas(self) -> Any:
        """Do as `to_arrow`, but return a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """Do as `to_arrow`, but return a polars frame."""
        return to_polars(self.to_arrow())

    @property
    def cost_limit(self) -> SpendLimit | None:
        if self.max_cost is None or self.spent is None:
            return None
        return SpendLimit(self.max_cost, self.spent)


def require_reached(summary: Summary) -> Summary:
    """Return the summary. Raises ConfigurationError if nothing was ever reached."""
    if summary.end == End.UNREACHABLE.value:
        raise ConfigurationError(
            f"{summary.base_url}: nothing answers there: {summary.connect_error}"
        )
    return summary


def summarise(
    runner: Runner | Workers, end: End, *, output: str, done_before: int, elapsed: float
) -> Summary:
    journal, stats, total = runner.journal, runner.stats, len(runner.rows)
    limit = runner.spend.limit
    answered = journal.done - done_before
    return Summary(
        input=runner.rows.name,
        output=output,
        base_url=hidden(runner.client.base_url),
        end=end.value,
        refused_by=runner.refused_by,
        connect_error=stats.connect_error,
        reason=stats.reasons.most_frequent(runner.refused_by) or stats.reasons.most_frequent(),
        total=total,
        successful=journal.done,
        failed=journal.failed,
        left=total - journal.done - journal.failed,
        retried=journal.retried,
        recovered=journal.recovered,
        answered=answered,
        reused=journal.reused,
        elapsed=round(elapsed, 3),
        throughput=round(answered / elapsed, 2) if elapsed > 0 else 0.0,
        verdicts=dict(stats.verdicts.most_common()),
        max_cost=None if limit is None else limit.usd,
        spent=None if limit is None else limit.spent,
        cost=runner.spend.cost,
        **{name: round(getattr(stats, name), 3) for name in TOTALS},
    )
