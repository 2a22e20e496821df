"""Fixtures for tests of the gateway."""

import pytest
from gateways import PROVIDER_KEY


@pytest.fixture(autouse=True)
def provider_key(monkeypatch, no_words_about_providers):
    """The key of the provider, in the environment."""
    monkeypatch.setenv("GATEWAY_TEST_KEY", PROVIDER_KEY)


@pytest.fixture
def path(tmp_path):
    """The path of the settings file."""
    return tmp_path / "gateway.toml"
