"""The recipes of docs/sdks: the code of a page, run unchanged except for its addresses."""

import ast
import asyncio
import re
from contextlib import asynccontextmanager
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import NamedTuple

from stormbreak.http.transports.sdk_transport import AsyncSdkTransport, SdkTransport

PLACE = Path(__file__).parents[2] / "docs" / "sdks"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai/"
OPENAI, ANTHROPIC = "https://api.openai.com/v1", "https://api.anthropic.com"
KEY = "sk-recipe-canary-0123456789"

_BLOCK = re.compile(r"^```python sdk\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Recipe(NamedTuple):
    """A page: its environment, and the exceptions that its users catch (by their names on the page)."""

    name: str
    environment: str
    limited: str  # when there are too many requests
    used_up: str  # when the credit is used up
    cut: tuple[str, ...]  # when a stream breaks
    parses: bool = False  # needs answers that the embedded provider cannot give

    @property
    def page(self):
        return (PLACE / f"{self.name}.md").read_text()

    @property
    def code(self):
        return "\n\n".join(_BLOCK.findall(self.page))

    def ways(self, kind):
        """Names of the functions on the page that start with `kind`, "ask" or "stream"."""
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        named = [each.name for each in ast.parse(self.code).body if isinstance(each, functions)]
        return [name for name in named if name.partition("_")[0] == kind]

    @asynccontextmanager
    async def over(self, base_url):
        """Run the page for a provider at this address; at the end, no attempt may be in flight."""
        code = self.code.replace(OPENAI, base_url).replace(GEMINI, base_url)
        code = code.replace(ANTHROPIC, base_url.removesuffix("/v1"))
        names = {"__name__": "recipe"}
        exec(compile(code, f"docs/sdks/{self.name}.md", "exec"), names)
        running = Running(names)
        assert running.sdk_transports
        try:
            yield running
        finally:
            await running.close()
        assert running.in_flight() == 0


class Running:
    """The names of a page after its code ran, as attributes, and the transports among them."""

    def __init__(self, names):
        self.__dict__.update(names)
        self.sdk_transports = [each for each in names.values() if isinstance(each, SdkTransport)]

    async def ask(self, way, prompt="Hello?"):
        """Call an `ask` function of the page."""
        function = getattr(self, way)
        if iscoroutinefunction(function):
            return await function(prompt)
        return await asyncio.to_thread(self._blocking, function, prompt)

    async def read(self, way, pieces, prompt="Hello?"):
        """Append the pieces of a `stream` function of the page to `pieces`, also if the stream breaks."""
        function = getattr(self, way)
        if isasyncgenfunction(function):
            async for piece in function(prompt):
                pieces.append(piece)
        else:
            await asyncio.to_thread(self._blocking, lambda: pieces.extend(function(prompt)))

    def _blocking(self, function, *args):
        """Call on a thread with a loop, as in the main thread of a script: some functions run asynchronous calls on it."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return function(*args)
        finally:
            for transport in self.sdk_transports:
                if isinstance(transport, AsyncSdkTransport):
                    loop.run_until_complete(transport.aclose())
            asyncio.set_event_loop(None)
            loop.close()

    def in_flight(self):
        """The number of permits held."""
        target_states = [
            target_state
            for transport in self.sdk_transports
            for target_state in transport.snapshot()["targets"].values()
        ]
        return sum(target_state["in_flight"] for target_state in target_states)

    async def close(self):
        """Close the connections of this loop and of the background loop."""
        for transport in self.sdk_transports:
            if isinstance(transport, AsyncSdkTransport):
                await transport.aclose()
            else:
                await asyncio.to_thread(transport.close)


RECIPES = [
    Recipe(
        "openai-agents",
        "shared",
        limited="openai.RateLimitError",
        used_up="openai.RateLimitError",
        cut=("openai.APIConnectionError",),
    ),
    Recipe(
        "pydantic-ai",
        "shared",
        limited="pydantic_ai.exceptions.ModelRateLimitError",
        used_up="pydantic_ai.exceptions.ModelHTTPError",
        cut=("pydantic_ai.exceptions.ModelConnectionError",),
    ),
    Recipe(
        "langchain",
        "shared",
        limited="langchain_core.exceptions.ModelRateLimitError",
        used_up="langchain_core.exceptions.ModelRateLimitError",
        cut=("langchain_core.exceptions.ModelConnectionError", "httpx2.RemoteProtocolError"),
    ),
    Recipe(
        "litellm",
        "shared",
        limited="litellm.RateLimitError",
        used_up="litellm.RateLimitError",
        cut=("litellm.exceptions.MidStreamFallbackError",),
    ),
    Recipe(
        "google-genai",
        "shared",
        limited="openai.RateLimitError",
        used_up="openai.RateLimitError",
        cut=("openai.APIConnectionError",),
    ),
    Recipe(
        "instructor",
        "instructor",
        limited="instructor.core.InstructorRetryException",
        used_up="instructor.core.InstructorRetryException",
        cut=("httpx2.RemoteProtocolError",),
        parses=True,
    ),
    Recipe(
        "llamaindex",
        "llamaindex",
        limited="openai.RateLimitError",
        used_up="openai.RateLimitError",
        cut=("httpx.RemoteProtocolError",),
    ),
]
