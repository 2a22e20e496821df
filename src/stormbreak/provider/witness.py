"""Whoever wants to know what the embedded provider saw of each request, and when, in scenario time."""

from typing import Protocol

from stormbreak.provider.formats.form import Asked


class RequestObserver(Protocol):
    """Is told, on the provider's event loop."""

    def asked(self, asked: Asked, at: float) -> None:
        """A request has come in whole, and can be understood."""

    def answered(self, asked: Asked, at: float) -> None:
        """A good answer to it has been written whole, to a connection that was still there."""
