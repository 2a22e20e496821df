from table_test import table_test

from stormbreak.hidden_keys import may_be_secret


@table_test(
    "key",
    [
        "",
        "EMPTY",
        "ollama",
        "sk-1234",
        "anything",
        "Anything",
        "not-needed",
        "no key at all",
        "lm-studio",
        "CHANGE_ME",
        "xxxxxxxxxxxxxxxxxxxxxxxx",
    ],
)
def test_a_placeholder_is_no_secret(key):
    assert not may_be_secret(key)


@table_test(
    "key",
    [
        "sk-abcdefgh",
        "sk-ant-api03-abcdefgh",
        "AIzaabcdefghij",
        "token-abc123",
        "hunter2hunter2",
        "kJhGfDsAqWeR",
        "correcthorsebatterystaple",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_a_key_of_any_other_form_may_be_a_secret(key):
    assert may_be_secret(key)
