"""What a run came to, for eyes and for scripts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from stormbreak.batch.output_reader import Answered, Failed, read_answers, read_failures
from stormbreak.batch.running.failure_reasons import Reason
from stormbreak.batch.running.runner import End, Runner
from stormbreak.batch.token_ledger import Cost, Limit
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Rows are counted over all runs on this OUTPUT, the rest over this run alone. Times are seconds."""

    input: str
    output: str
    base_url: str
    end: str  # finished, refused, spent, unreachable or interrupted
    refused_by: Verdict | None  # the final verdict that stopped the run
    trouble: str  # of the last attempt that found no HTTP server
    reason: Reason | None  # what most rows of this run failed for, or what stopped it
    total: int
    successful: int
    failed: int
    left: int
    retried: int  # rows that had failed in earlier runs, and that this one was to send again
    mended: int  # of these, answered now
    answered: int  # rows answered by this run
    elapsed: float
    throughput: float  # answered rows per second
    attempts: int
    retries: int
    maybe_processed: int  # of this run's attempts: may have been billed, besides the answers
    verdicts: Mapping[str, int]  # of this run's attempts
    circuits_opened: int
    cooldowns: int
    waited: float  # seconds spent in queues, cooldowns and backoff, over all calls
    input_tokens: int
    output_tokens: int
    max_cost: Decimal | None  # US dollars that all runs may cost
    spent: Decimal | None  # of these, at the most, where there is such a limit
    cost: Cost  # of all runs on this OUTPUT

    @property
    def complete(self) -> bool:
        """Whether every row is answered."""
        return not (self.failed or self.left)

    def answers(self) -> Iterator[Answered]:
        """Read the answers of all runs on this OUTPUT, one after another, as it stands now."""
        return read_answers(self.output)

    def failures(self) -> Iterator[Failed]:
        """Read the rows that failed, and why."""
        return read_failures(self.output)

    @property
    def limit_of_cost(self) -> Limit | None:
        """What may be spent, and how much of that was, where there is a limit."""
        if self.max_cost is None or self.spent is None:
            return None
        return Limit(self.max_cost, self.spent)


def require_reached(summary: Summary) -> None:
    """Raise a ConfigurationError if nothing was ever reached: nothing has come of any row."""
    if summary.end == End.UNREACHABLE.value:
        raise ConfigurationError(f"{summary.base_url}: nothing answers there: {summary.trouble}")


def summarise(
    runner: Runner, end: End, *, output: str, done_before: int, elapsed: float
) -> Summary:
    """Sum up a run that has ended."""
    journal, counts, total = runner.journal, runner.counts, len(runner.rows)
    limit = runner.so_far.limit
    answered = journal.done - done_before
    return Summary(
        input=str(runner.rows.path),
        output=output,
        base_url=runner.client.base_url,
        end=end.value,
        refused_by=runner.refused_by,
        trouble=counts.trouble,
        reason=counts.reasons.most(runner.refused_by) or counts.reasons.most(),
        total=total,
        successful=journal.done,
        failed=journal.failed,
        left=total - journal.done - journal.failed,
        retried=journal.retried,
        mended=journal.mended,
        answered=answered,
        elapsed=round(elapsed, 3),
        throughput=round(answered / elapsed, 2) if elapsed > 0 else 0.0,
        attempts=counts.attempts,
        retries=counts.retries,
        maybe_processed=counts.maybe_processed,
        verdicts=dict(counts.verdicts.most_common()),
        circuits_opened=counts.circuits_opened,
        cooldowns=counts.cooldowns,
        waited=round(counts.waited, 3),
        input_tokens=counts.input_tokens,
        output_tokens=counts.output_tokens,
        max_cost=None if limit is None else limit.usd,
        spent=None if limit is None else limit.spent,
        cost=runner.so_far.cost,
    )
