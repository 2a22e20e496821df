"""Pydantic AI: the clients that its provider accepts."""

import httpx2
import pytest
from pydantic_ai.providers.openai import OpenAIProvider
from recipes import OPENAI

from stormbreak.httpx2 import Transport

pytestmark = pytest.mark.sdks("shared")


def test_a_blocking_client_is_rejected():
    with (
        httpx2.Client(transport=Transport()) as http,
        pytest.raises(TypeError, match="http_client"),
    ):
        OpenAIProvider(base_url=OPENAI, http_client=http)
