"""Files of prompts pushed through an engine: every row answered or explained, nothing lost.

From Python: `run`, or `arun` where an event loop runs. Each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from stormbreak.lazy_import import on_demand

if TYPE_CHECKING:
    from stormbreak.batch.api import Options as Options
    from stormbreak.batch.api import arun as arun
    from stormbreak.batch.api import run as run
    from stormbreak.batch.output_reader import Answered as Answered
    from stormbreak.batch.output_reader import Failed as Failed
    from stormbreak.batch.output_reader import read_answers as read_answers
    from stormbreak.batch.output_reader import read_failures as read_failures
    from stormbreak.batch.row_selection import failed_rows as failed_rows
    from stormbreak.batch.running.summary import Summary as Summary
    from stormbreak.batch.view import View as View

_HOMES = {
    "Answered": "stormbreak.batch.output_reader",
    "Failed": "stormbreak.batch.output_reader",
    "Options": "stormbreak.batch.api",
    "Summary": "stormbreak.batch.running.summary",
    "View": "stormbreak.batch.view",
    "arun": "stormbreak.batch.api",
    "failed_rows": "stormbreak.batch.row_selection",
    "read_answers": "stormbreak.batch.output_reader",
    "read_failures": "stormbreak.batch.output_reader",
    "run": "stormbreak.batch.api",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names only

__getattr__, __dir__ = on_demand(__name__, _HOMES)
