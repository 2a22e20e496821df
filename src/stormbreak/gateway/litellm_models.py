"""Find where a model of LiteLLM's `model_list` leads: provider or address, model, and variable with the key. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from stormbreak.hidden_keys import VARIABLE, quote_model
from stormbreak.http.endpoint import is_loopback

_VARIABLE = re.compile(r"os\.environ/(\w+)|\$\{(\w+)\}")
"""References to a variable in a value: for LiteLLM, or for `envsubst` before it."""

_PROVIDERS: Mapping[str, tuple[str, str | None]] = {
    "openai": ("openai", None),
    "text-completion-openai": ("openai", None),
    "anthropic": ("anthropic", None),
    "deepseek": ("deepseek", None),
    "groq": ("groq", None),
    "openrouter": ("openrouter", None),
    "gemini": ("gemini", None),
    "mistral": ("mistral", None),
    "xai": ("xai", None),
    "together_ai": ("together", "TOGETHERAI_API_KEY"),
    "fireworks_ai": ("fireworks", "FIREWORKS_AI_API_KEY"),
    "cerebras": ("cerebras", None),
}
"""By LiteLLM's name: our name, and the variable with the key if its name differs from ours."""

_COMPATIBLE = frozenset(
    [
        "openai_like", "custom_openai", "hosted_vllm", "vllm", "lm_studio", "xinference", "llamafile",
        "litellm_proxy", "nvidia_nim",
    ]
)  # fmt: skip
"""Servers of OpenAI's API at an `api_base`."""

_NO_KEY = frozenset({"", "empty", "none", "null"})
_OLLAMA = frozenset({"ollama", "ollama_chat"})
_OLLAMA_BASE = "http://localhost:11434"
_AZURE = frozenset({"azure", "azure_ai"})

_BY_NAME = (
    (re.compile(r"(gpt-|chatgpt-|o[1-9](-|$)|text-embedding-|davinci|babbage)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
)
"""The default providers, by model name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where calls of a model go: the values of a target, and notes for the user."""

    provider: str | None = None
    base_url: str | None = None
    model: str
    api_key_env: str | None = None
    allow_http: bool = False
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """The keys of a target. With `*`, the client chooses the model."""
        named = {
            "provider": self.provider,
            "base_url": self.base_url,
            "model": None if "*" in self.model else self.model,
            "api_key_env": self.api_key_env,
            "allow_http": self.allow_http or None,
        }
        return {name: value for name, value in named.items() if value is not None}


def variable_in(value: object) -> str | None:
    """Return the name of the variable that a value refers to."""
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    name = None if found is None else found[1] or found[2]
    return name if name and VARIABLE.fullmatch(name) else None


def address_of(
    path: str,
    group: str,
    take: Callable[[str], Any],
    environ: Mapping[str, str],
    variable_for: Callable[[str, str], str],
) -> Address | str:
    """Return where the model of a group leads, or why it cannot be converted.

    `take` takes a parameter out; `variable_for` names a variable for a literal key of a group.
    """
    model, key = str(take("model") or ""), take("api_key")
    base = take("api_base") or take("base_url")
    provider, rest = _split(model, take("custom_llm_provider"))
    variable = variable_in(base)
    if variable is not None:
        base = environ.get(variable)
    place: dict[str, Any] | str
    if variable is not None and base is None:
        place = f"set the variable {variable} with its address, and convert again"
    elif base is not None and not str(base).startswith(("http://", "https://")):
        place = "its address must begin with http:// or https://"
    elif not rest or provider is None:
        place = "name its provider, such as openai/MODEL"
    elif "*" in rest and not (rest.index("*") == len(rest) - 1 and group == rest):
        place = (
            "a name with * sends the model that the client asks for, without the provider: list the"
            " models by name"
        )
    else:
        place = _place(provider, base)
    if isinstance(place, str):
        return f"{path}: {quote_model(model)} is not converted: {place}"
    literal = (
        isinstance(key, str) and variable_in(key) is None and key.strip().lower() not in _NO_KEY
    )
    named = variable_for(group, str(key)) if literal else variable_in(key)
    address = _with_key(path, place, rest, named)
    if not literal:
        return address
    note = f"{path}.api_key: put this key in the variable {named}: no file holds keys"
    return replace(address, notes=(note, *address.notes))


def _split(model: str, given: object) -> tuple[str | None, str]:
    first, _, rest = model.partition("/")
    if given:
        return str(given), rest if first == given else model
    if rest and (first in _PROVIDERS or first in _COMPATIBLE | _OLLAMA | _AZURE):
        return first, rest
    by_name = next((name for pattern, name in _BY_NAME if pattern.match(model)), None)
    return (by_name, model) if by_name else (first if rest else None, rest or model)


def _place(provider: str, base: str | None) -> dict[str, Any] | str:
    """Return the provider or address, and the default variable of the key; or why there is none."""
    if provider in _PROVIDERS:
        ours, variable = _PROVIDERS[provider]
        known = {"provider": ours, "variable": variable}
        return (
            {"base_url": _v1(base) if ours == "anthropic" else base.rstrip("/")} if base else known
        )
    if provider in _OLLAMA:
        return {"base_url": _v1(base or _OLLAMA_BASE)}
    if provider not in _COMPATIBLE | _AZURE:
        return f"{quote_model(provider)} is not a known provider of OpenAI's or Anthropic's API"
    if not base:
        return "an api_base is needed"
    if provider in _AZURE:
        return {"base_url": _v1(base, "/openai/v1"), "variable": "AZURE_API_KEY"}
    return {"base_url": base.rstrip("/")}


def _v1(base: str, path: str = "/v1") -> str:
    base = base.rstrip("/")
    return base if base.endswith("/v1") else base + path


def _with_key(path: str, place: dict[str, Any], model: str, named: str | None) -> Address:
    default = place.pop("variable", None)
    variable = named or default
    notes, base = [], urlsplit(place.get("base_url", ""))
    if variable is None and base.netloc:
        notes.append(f"{path} has no api_key, so none is sent to {base.netloc}")
    plain = base.scheme == "http" and not is_loopback(base.hostname or "") and variable is not None
    if plain:
        notes.append(
            f"{path}: allow_http = true, since its address is http: the key travels in the clear"
        )
    return Address(**place, model=model, api_key_env=variable, allow_http=plain, notes=tuple(notes))
