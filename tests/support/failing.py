"""Batches of which some rows fail until their provider recovers."""

from batches import chat_rows, scenario

KINDS = {
    "400": "invalid",
    "404": "not_found",
    "401": "auth",
    "429": "throttled",
    "content_filter": "filtered",
}


def rows_that_fail(count, **failing):
    """Rows in the OpenAI Batch format. The keyword names the error of the rows with these numbers, for example `_401`."""
    rows = chat_rows(count)
    for kind, numbers in failing.items():
        for number in numbers:
            rows[number]["body"]["messages"][0]["content"] += f" (meets {kind.lstrip('_')})"
    return rows


def failing_scenario(**provider):
    """A scenario in which these rows get their error."""
    faults = [{"kind": kind, "match": f"(meets {kind})"} for kind in KINDS]
    return scenario(*faults, **provider)


def ids(numbers):
    return {f"row-{number}" for number in numbers}


def named(lines):
    return {line["custom_id"] for line in lines}
