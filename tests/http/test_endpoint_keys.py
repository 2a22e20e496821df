"""A key from a function is sent to the address of its attempt."""

from stormbreak.http.endpoint import DynamicKey, origin_of

ADDRESSES = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", "http://127.0.0.1:1/v1"]


async def test_an_unchanged_key_is_sent_to_the_current_address():
    """A settings file may move a target while its function returns the same key."""
    key = DynamicKey(lambda: "key")
    asked = [await key.ask(origin_of(each, None), allow_http=False) for each in ADDRESSES]
    assert [(origin.base_url, origin.api_key) for origin in asked] == [
        (each, "key") for each in ADDRESSES
    ]
