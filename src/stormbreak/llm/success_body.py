"""The common part of success bodies at all endpoints."""

from typing import Any

import msgspec

from stormbreak.llm.error_fields import error_next_to_result, is_error_value
from stormbreak.llm.finish_reasons import FinishMeaning, Reason
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.tokens import usage_of
from stormbreak.types import Verdict

ERROR_INSIDE = "an error in place of an answer"


class SuccessBody(msgspec.Struct):
    """The fields that any answer may have."""

    error: Any = None
    object: Any = None
    type: Any = None
    usage: Any = None
    x_groq: Any = None
    base_resp: Any = None

    def is_error(self) -> bool:
        """Whether it is an error, or has one next to the answer."""
        if self.object == "error" or self.type == "error":
            return True
        if not (self.error or self.x_groq or self.base_resp):
            return False
        beside = {"x_groq": self.x_groq, "base_resp": self.base_resp}
        return is_error_value(self.error) or error_next_to_result(beside) is not None


def broken(detail: str, request_id: str | None) -> ParsedResponse:
    """Return the result for an unusable answer; `detail` is in our own words."""
    return ParsedResponse(
        Verdict.BROKEN, detail=detail, request_id=request_id, maybe_processed=True
    )


def refused_by(reason: Reason, usage: object, request_id: str | None) -> ParsedResponse:
    """Return the result for an answer that is unusable by its finish reason, but billed."""
    if reason.meaning is FinishMeaning.ERROR:
        return broken(ERROR_INSIDE, request_id)
    return ParsedResponse(
        reason.verdict,
        code=reason.name,
        detail=f"the answer was {reason.meaning.value}",
        usage=usage_of(usage),
        finish_reason=reason.name,
        request_id=request_id,
        maybe_processed=True,
    )
