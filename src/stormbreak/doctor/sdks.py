"""What is known of SDKs and of what stands on them: where their defaults are written, what fits under them, and their traps.

Facts are of the version in `checked`; what `file` and `name` point at is read anew from whatever is installed.
"""

from typing import NamedTuple

ENDLESS = "without end"
NONE = "none"
SDK_DEFAULT = "its SDK's"
NEVER_SENDS = "-"


class Default(NamedTuple):
    """A default: a number, or words, in the version that was checked, and where the package writes it, if it does.

    `name` is a constant, `Class.field` or `function.argument`; where None stands there, it means `none`.
    Of retries, `includes_first` says that the number written there is that of all attempts.
    """

    value: float | str
    file: str = ""
    name: str = ""
    none: str = NONE
    includes_first: bool = False


class Sdk(NamedTuple):
    """A package. `over` is the SDK that carries its calls; None where it has an HTTP library of its own, or none."""

    name: str
    checked: str
    retries: Default
    timeout: Default
    door: str
    over: str | None = None
    traps: tuple[str, ...] = ()


_CLIENT = "http_client=<library>.AsyncClient(transport=stormbreak.<library>.AsyncTransport())"
_OUTSIDE = "none: a policy of stormbreak's retries, and what goes through a door needs no other"
_CUT = "A stream that ends cleanly before its end marker raises nothing: half an answer passes for a whole one."

SDKS: tuple[Sdk, ...] = (
    Sdk(
        "openai",
        "3.57.0",
        Default(2, "openai/_constants.py", "DEFAULT_MAX_RETRIES"),
        Default(600.0, "openai/_constants.py", "DEFAULT_TIMEOUT"),
        _CLIENT,
        traps=("A 429 that says the quota is used up is retried like any other.", _CUT),
    ),
    Sdk(
        "anthropic",
        "2.14.0",
        Default(2, "anthropic/_constants.py", "DEFAULT_MAX_RETRIES"),
        Default(600.0, "anthropic/_constants.py", "DEFAULT_TIMEOUT"),
        _CLIENT,
        traps=(
            "An error inside a stream is not retried, and a cut stream raises httpx2.RemoteProtocolError.",
            _CUT,
        ),
    ),
    Sdk(
        "google-genai",
        "3.6.1",
        Default(0),
        Default(NONE),
        "HttpOptions(client_args={'transport': Transport()}, async_client_args={'transport': AsyncTransport()})",
        traps=(
            "Each request says timeout=None unless HttpOptions(timeout=milliseconds) is set, past the client's own.",
        ),
    ),
    Sdk(
        "mistralai",
        "3.7.0",
        Default(0),
        Default(NONE, "mistralai/client/sdkconfiguration.py", "SDKConfiguration.timeout_ms"),
        "client=<library>.Client(transport=Transport()), async_client=<library>.AsyncClient(...)",
        traps=(
            "Each request says timeout=None unless timeout_ms is set; a retry_config is bounded by time only, an hour.",
        ),
    ),
    Sdk(
        "litellm",
        "1.110.2",
        Default(2, "litellm/constants.py", "DEFAULT_MAX_RETRIES"),
        Default(6000.0, "litellm/constants.py", "DEFAULT_REQUEST_TIMEOUT_SECONDS"),
        "client=openai.OpenAI(http_client=...) for what speaks OpenAI's format, else client=HTTPHandler(client=httpx.Client(...))",
        traps=(
            "num_retries=3 sends a permanent 429 seven times, and Retry-After beyond 60 s is not obeyed.",
            "Its import fetches a list of prices from the network, unless LITELLM_LOCAL_MODEL_COST_MAP=True.",
        ),
    ),
    Sdk(
        "langchain-openai",
        "1.7.4",
        Default(
            SDK_DEFAULT,
            "langchain_openai/chat_models/base.py",
            "BaseChatOpenAI.max_retries",
            SDK_DEFAULT,
        ),
        Default(NONE, "langchain_openai/chat_models/base.py", "BaseChatOpenAI.request_timeout"),
        "ChatOpenAI(http_client=..., http_async_client=...), both",
        over="openai",
        traps=("timeout=None is handed to openai, whose 600 s are lost by it.",),
    ),
    Sdk(
        "langchain-anthropic",
        "1.7.10",
        Default(2, "langchain_anthropic/chat_models.py", "ChatAnthropic.max_retries"),
        Default(
            NONE, "langchain_anthropic/chat_models.py", "ChatAnthropic.default_request_timeout"
        ),
        "wrap(model._client) and wrap(model._async_client): it takes no HTTP client",
        over="anthropic",
        traps=("timeout=None is handed to anthropic, whose 600 s are lost by it.",),
    ),
    Sdk(
        "pydantic-ai-slim",
        "2.68.0",
        Default(SDK_DEFAULT),
        Default(600.0, "pydantic_ai/_http.py", "DEFAULT_HTTP_TIMEOUT"),
        "OpenAIProvider(http_client=<library>.AsyncClient(transport=AsyncTransport()))",
        traps=("The transports of pydantic_ai.retries multiply with the SDK's own retries.",),
    ),
    Sdk(
        "openai-agents",
        "0.24.0",
        Default(SDK_DEFAULT),
        Default(SDK_DEFAULT),
        "set_default_openai_client(AsyncOpenAI(http_client=...))",
        over="openai",
    ),
    Sdk(
        "instructor",
        "1.17.0",
        Default(SDK_DEFAULT),
        Default(SDK_DEFAULT),
        "from_openai(OpenAI(http_client=...))",
        over="openai",
        traps=("max_retries=3 asks again for answers that do not fit; each is a call of its own.",),
    ),
    Sdk(
        "llama-index-llms-openai",
        "0.8.3",
        Default(3, "llama_index/llms/openai/base.py", "OpenAI.max_retries"),
        Default(60.0, "llama_index/llms/openai/base.py", "OpenAI.timeout"),
        "OpenAI(http_client=httpx.Client(...), async_http_client=httpx.AsyncClient(...), max_retries=0)",
        over="openai",
        traps=(
            "max_retries counts twice, in a decorator and in the SDK below: a permanent 429 is sent 12 times.",
        ),
    ),
    Sdk(
        "tenacity",
        "9.2.1",
        Default(ENDLESS, "tenacity/__init__.py", "retry.stop", ENDLESS),
        Default(NEVER_SENDS),
        _OUTSIDE,
        traps=(
            "retry without stop= never ends, and around an SDK it multiplies with its retries.",
        ),
    ),
    Sdk(
        "stamina",
        "26.1.0",
        Default(9, "stamina/_core.py", "retry.attempts", includes_first=True),
        Default(NEVER_SENDS),
        _OUTSIDE,
        traps=("Around an SDK its ten attempts multiply with the SDK's retries: 30 by default.",),
    ),
    Sdk(
        "backoff",
        "2.2.1",
        Default(
            ENDLESS, "backoff/_decorator.py", "on_exception.max_tries", ENDLESS, includes_first=True
        ),
        Default(NEVER_SENDS),
        _OUTSIDE,
        traps=("on_exception without max_tries= never ends; around an SDK it multiplies.",),
    ),
    Sdk(
        "httpx-retries",
        "0.6.0",
        Default(10, "httpx_retries/retry.py", "Retry.__init__.total"),
        Default(NEVER_SENDS),
        _OUTSIDE,
        traps=(
            "Where it is told to retry POST, its retries multiply with the SDK's: 33 attempts by ten.",
        ),
    ),
)
