"""For tests of applications on LLM APIs: the embedded provider, as a pytest fixture or a context manager.

pytest loads this module in every run of a project that has stormbreak installed; it therefore imports nothing
else of it until it is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from stormbreak.provider.background import RunningProvider
    from stormbreak.provider.scenario import Scenario

__all__ = ["ProviderFactory", "answer_text", "serve", "stormbreak_provider"]


class ProviderFactory(Protocol):
    """Starts providers that live as long as the test."""

    def __call__(
        self,
        scenario: str | Path | Scenario = "calm",
        *,
        seed: int = 0,
        speed: float | None = None,
    ) -> RunningProvider:
        """Start one: a scenario by name, by path, as TOML text or as a value."""


def serve(
    scenario: str | Path | Scenario = "calm",
    *,
    seed: int = 0,
    speed: float | None = None,
    port: int = 0,
) -> AbstractContextManager[RunningProvider]:
    """Serve a scenario until the block ends; for use without pytest."""
    from stormbreak.provider import background  # noqa: PLC0415

    return background.serve(scenario, seed=seed, speed=speed, port=port)


def answer_text(payload: Mapping[str, Any]) -> str:
    """Compose the text with which the provider answers this very request, in whatever format."""
    from stormbreak.provider.formats.text import text_for  # noqa: PLC0415
    from stormbreak.provider.formats.understand import digest_of  # noqa: PLC0415

    return text_for(digest_of(payload))


@pytest.fixture
def stormbreak_provider() -> Iterator[ProviderFactory]:
    """Start providers: `stormbreak_provider("chaos", seed=1, speed=20).base_url`."""
    with ExitStack() as stack:

        def start(
            scenario: str | Path | Scenario = "calm",
            *,
            seed: int = 0,
            speed: float | None = None,
        ) -> RunningProvider:
            return stack.enter_context(serve(scenario, seed=seed, speed=speed))

        yield start
