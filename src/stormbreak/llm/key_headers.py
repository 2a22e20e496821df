"""In which header an API wants its key, and what else it wants to be told.

A host that is known decides. Of all others, what is asked for does: the header is `Authorization`, except that a
message of Anthropic's API goes with `x-api-key` as well, since the many that speak that API do not agree. vLLM and
Ollama read `Authorization` alone (vllm#51572, ollama#16922), proxies to Anthropic `x-api-key` alone, gateways either.
Anthropic itself is reported to refuse both together (moeru-ai/airi#2098), and so a key of its own kind goes in
`x-api-key` alone, wherever it goes. Azure takes messages by `x-api-key` (continue#11513) and all else by `api-key`.
"""

from stormbreak.llm.reading import Shape

AUTHORIZATION, X_API_KEY, API_KEY = "Authorization", "x-api-key", "api-key"
VERSION = {"anthropic-version": "2023-06-01"}

ANTHROPIC = "api.anthropic.com"
AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
ANTHROPIC_KEY = "sk-ant-"


def key_headers(host: str, api_key: str | None, shape: Shape) -> dict[str, str]:
    """Write the headers with which `host` (in lower case) is asked for an answer of this shape."""
    headers = dict(VERSION) if _is_anthropic(host, shape) or shape is Shape.MESSAGES else {}
    if api_key is not None:
        for name in _names(host, api_key, shape):
            headers[name] = f"Bearer {api_key}" if name == AUTHORIZATION else api_key
    return headers


def _names(host: str, api_key: str, shape: Shape) -> tuple[str, ...]:
    message = shape is Shape.MESSAGES
    if host.endswith(AZURE):
        return (API_KEY, X_API_KEY) if message else (API_KEY,)
    if _is_anthropic(host, shape) or (message and api_key.startswith(ANTHROPIC_KEY)):
        return (X_API_KEY,)
    return (AUTHORIZATION, X_API_KEY) if message else (AUTHORIZATION,)


def _is_anthropic(host: str, shape: Shape) -> bool:
    """Whether it is Anthropic's own API; its chat completions are asked for as OpenAI's are."""
    return host == ANTHROPIC and shape is not Shape.CHAT
