"""Run files of prompts through an engine: every row ends with an answer or a reason, and none is lost.

From Python: `run`, or `arun` in code with an event loop. Each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

if TYPE_CHECKING:
    from stormbreak.batch.export.export import read_table as read_table
    from stormbreak.batch.from_python import aresults as aresults
    from stormbreak.batch.from_python import arun as arun
    from stormbreak.batch.from_python import results as results
    from stormbreak.batch.from_python import run as run
    from stormbreak.batch.run_options import Options as Options
    from stormbreak.batch.run_options import failed_rows as failed_rows
    from stormbreak.batch.running.snapshot import RunSnapshot as RunSnapshot
    from stormbreak.batch.running.summary import Summary as Summary
    from stormbreak.batch.store.reader import Answered as Answered
    from stormbreak.batch.store.reader import Failed as Failed
    from stormbreak.batch.store.reader import read_answers as read_answers
    from stormbreak.batch.store.reader import read_failures as read_failures

_HOMES = {
    "stormbreak.batch.from_python": "aresults arun results run",
    "stormbreak.batch.export.export": "read_table",
    "stormbreak.batch.run_options": "Options failed_rows",
    "stormbreak.batch.running.snapshot": "RunSnapshot",
    "stormbreak.batch.running.summary": "Summary",
    "stormbreak.batch.store.reader": "Answered Failed read_answers read_failures",
}

__all__, __getattr__, __dir__ = on_demand(__name__, _HOMES)
