from table_test import table_test

from stormbreak.llm.tokens import usage_of
from stormbreak.types import Usage


@table_test(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}, (9, 0, 8)),
        (
            {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 2}},
            (5, 6, 2),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "4"}, (0, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, (0, 0, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": None}, (0, 0, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, (0, 0, 0)),
        ({"prompt_tokens": 100, "completion_tokens": -5}, (0, 0, 0)),
        ({"prompt_tokens": "100", "completion_tokens": 5}, (0, 0, 0)),
        ({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 10**30}, (0, 0, 0)),
        ({"prompt_tokens": 100, "completion_tokens": float("nan")}, (0, 0, 0)),
        ({"prompt_tokens": 100, "completion_tokens": float("inf")}, (0, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": -8}}, (0, 0, 0)),
        ({"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": "7"}, (0, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 80}}, (9, 0, 9)),
        ({"prompt_tokens": 12.0, "completion_tokens": 3.0, "total_tokens": 15.0}, (12, 3, 0)),
        ({"prompt_tokens": 10**7, "completion_tokens": 1}, (10**7, 1, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 1}, (0, 1, 0)),
        ({"prompt_tokens": 1, "completion_tokens": 0}, (1, 0, 0)),
        ({"prompt_tokens": 10**7 + 1, "completion_tokens": 1}, (0, 0, 0)),
        ({"prompt_tokens": 1, "prompt_tokens_details": [1]}, (1, 0, 0)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, (32, 103, 0)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 41}, (32, 9, 0)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 7}, (32, 9, 0)),
        ({"total_tokens": 41}, (0, 0, 0)),
        (None, (0, 0, 0)),
        ([], (0, 0, 0)),
        ("many", (0, 0, 0)),
    ],
)
def test_each_form_of_usage_is_parsed(usage, expected):
    given, taken, cached = expected
    expected_usage = Usage(input_tokens=given, output_tokens=taken, cached_input_tokens=cached)
    assert expected_usage == usage_of(usage)


ANTHROPIC = {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 3}
CHAT = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}


def by_time(short, hour):
    return {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": hour}


@table_test(
    ("reported", "written", "hour"),
    [
        ({"cache_creation_input_tokens": 2}, 2, 0),
        ({"cache_creation_input_tokens": 2, "cache_creation": None}, 2, 0),
        ({"cache_creation_input_tokens": 2, "cache_creation": [7]}, 2, 0),
        ({"cache_creation_input_tokens": 2, "cache_creation": by_time(2, 0)}, 2, 0),
        ({"cache_creation_input_tokens": 5, "cache_creation": by_time(2, 3)}, 5, 3),
        ({"cache_creation_input_tokens": 9, "cache_creation": by_time(2, 3)}, 9, 3),
        ({"cache_creation": by_time(2, 3)}, 5, 3),
        ({"cache_creation_input_tokens": 2, "prompt_tokens": None}, 2, 0),
    ],
)
def test_cache_writes_of_anthropic_are_additional_input(reported, written, hour):
    assert usage_of(ANTHROPIC | reported) == Usage(
        input_tokens=8 + written,
        output_tokens=6,
        cached_input_tokens=3,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


@table_test(
    ("reported", "cached", "written", "hour"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2}}, 3, 2, 0),
        ({"prompt_tokens_details": {"cached_tokens": 9, "cache_write_tokens": 2}}, 9, 1, 0),
        ({"prompt_tokens_details": {"cache_write_tokens": 99}}, 0, 10, 0),
        ({"cache_creation_input_tokens": 2, "cache_read_input_tokens": 3}, 3, 2, 0),
        ({"cache_creation_input_tokens": 5, "cache_creation": by_time(2, 3)}, 0, 5, 3),
        ({"cache_creation_input_tokens": 2, "cache_creation": by_time(0, 3)}, 0, 2, 2),
    ],
)
def test_cache_writes_of_chat_completions_are_part_of_the_prompt(reported, cached, written, hour):
    assert usage_of(CHAT | reported) == Usage(
        input_tokens=10,
        output_tokens=6,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
    )


def test_cache_writes_of_responses_are_read():
    details = {"cached_tokens": 2, "cache_write_tokens": 3}
    usage = {"input_tokens": 9, "output_tokens": 1, "input_tokens_details": details}

    assert usage_of(usage).cache_write_tokens == 3


@table_test("bad", [-1, 10**30, 1.5, "2", True, [2], {}, float("nan"), float("inf")])
@table_test(
    "reported",
    [
        lambda bad: ANTHROPIC | {"cache_creation_input_tokens": bad},
        lambda bad: ANTHROPIC | {"cache_creation": by_time(bad, 0)},
        lambda bad: ANTHROPIC | {"cache_creation": by_time(0, bad)},
        lambda bad: CHAT | {"prompt_tokens_details": {"cache_write_tokens": bad}},
        lambda bad: CHAT | {"cache_creation_input_tokens": bad},
        lambda bad: CHAT | {"cache_creation_input_tokens": 5, "cache_creation": by_time(0, bad)},
    ],
)
def test_an_invalid_cache_write_count_makes_the_usage_unknown(reported, bad):
    assert usage_of(reported(bad)) == Usage()
