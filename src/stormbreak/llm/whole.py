"""What the bodies of all successes have in common, whatever endpoint they are of."""

from typing import Any

import msgspec

from stormbreak.llm.complaint import speaks
from stormbreak.llm.reading import Reading
from stormbreak.types import Verdict

ERROR_INSIDE = "an error in place of an answer"


class Whole(msgspec.Struct):
    """The fields that any answer may have."""

    error: Any = None
    object: Any = None
    type: Any = None
    usage: Any = None

    def is_error(self) -> bool:
        """Whether it is an error, or has one beside the answer."""
        named = self.object == "error" or self.type == "error"
        return named or bool(self.error and speaks(self.error))


def broken(detail: str, request_id: str | None) -> Reading:
    """Say that an answer is none; `detail` is in our own words."""
    return Reading(Verdict.BROKEN, detail=detail, request_id=request_id, maybe_processed=True)
