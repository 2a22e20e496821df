import pytest

from stormbreak.llm.usage import usage_of
from stormbreak.types import Usage


@pytest.mark.parametrize(
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
        (
            {
                "input_tokens": 5,
                "output_tokens": 6,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 2,
            },
            (10, 6, 3),
        ),
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
def test_usage(usage, expected):
    given, taken, cached = expected
    wanted = Usage(input_tokens=given, output_tokens=taken, cached_input_tokens=cached)
    assert wanted == usage_of(usage)
