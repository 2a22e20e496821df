"""Batches of which some rows fail, until their provider is mended."""

from batches import chat_rows, scenario

KINDS = {
    "400": "invalid",
    "404": "not_found",
    "401": "auth",
    "429": "throttled",
    "content_filter": "filtered",
}


def rows_that_fail(count, **failing):
    """Rows in the OpenAI Batch format; those with the numbers in `failing` ask for what it is named after, `_401` say."""
    rows = chat_rows(count)
    for kind, numbers in failing.items():
        for number in numbers:
            rows[number]["body"]["messages"][0]["content"] += f" (meets {kind.lstrip('_')})"
    return rows


def ill(**provider):
    """A scenario that gives them what they ask for."""
    troubles = [{"kind": kind, "match": f"(meets {kind})"} for kind in KINDS]
    return scenario(*troubles, **provider)


def ids(numbers):
    return {f"row-{number}" for number in numbers}


def named(lines):
    return {line["custom_id"] for line in lines}
