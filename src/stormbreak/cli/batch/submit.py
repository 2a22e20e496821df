"""`stormbreak batch submit`: send rows to the provider's own batch API."""

from stormbreak.batch.job import Job
from stormbreak.batch.remote.caller import RemoteError
from stormbreak.batch.remote.submit import Submission, submit_job
from stormbreak.batch.store.provider_batches import RemoteBatch
from stormbreak.cli.batch.options import job_options, submit_options
from stormbreak.cli.command import subcommand
from stormbreak.cli.output import json_text, say, warn
from stormbreak.escape import path_of


@subcommand(
    "stormbreak batch submit prompts.jsonl -o answers.jsonl --provider openai -m gpt-4.1",
    "stormbreak batch submit rows.csv -o out.csv --prompt 'Summarise {text}' --provider openai -m gpt-4.1",
)
@job_options
@submit_options
def command(job: Job, *, batch_size: int | None, as_json: bool, quiet: bool) -> int:
    """Send the rows of INPUT to the provider's batch API, which answers within a day, at half the price.

    INPUT and OUTPUT are as for batch run. batch fetch writes the answers. Rows that come back without one can be sent
    with batch run. Run the same command again after a crash: nothing is submitted twice.
    """

    def on_batch(batch: RemoteBatch) -> None:
        if not (as_json or quiet):
            say(f"batch {batch.number:<4} {len(batch.ranges):,} rows for {batch.model}: {batch.id}")

    try:
        submission = submit_job(job, batch_size=batch_size, on_batch=on_batch)
    except RemoteError as error:
        warn(str(error))
        return 1
    say(json_text(_facts(submission)) if as_json else _text(submission))
    return 0 if submission.complete else 1


def _facts(submission: Submission) -> dict[str, object]:
    return {
        "output": submission.output,
        "submitted": submission.rows,
        "batches": [batch.id for batch in submission.batches],
        "unsent": submission.unsent,
        "unsure": [batch.number for batch in submission.unsure],
    }


def _text(submission: Submission) -> str:
    out = path_of(submission.output)
    lines = [f"submitted  {submission.rows:,} rows in {len(submission.batches):,} batch(es)"]
    if submission.unsent:
        usd, room = submission.refused_usd, submission.room_usd
        why = f"the next batch can cost {usd:.2f} USD, and {room:.2f} are left of --max-cost"
        lines.append(f"not sent   {submission.unsent:,} rows: {why}; see --batch-size")
    if submission.unsure:
        names = ", ".join(str(batch.number) for batch in submission.unsure)
        lines.append(
            f"unsure     batch {names}: the provider may have it; batch poll --wait finds out"
        )
    lines.append(f"next       stormbreak batch fetch --wait {out}")
    return "\n".join(lines)
