"""`make test-sdks` names the environment: only the recipes of that environment run."""

import os
from pathlib import Path

import pytest
from recipes import KEY, RECIPES

HERE = Path(__file__).parent
ENVIRONMENT = os.environ.get("STORMBREAK_SDKS")
collect_ignore = [
    f"test_{each.name.replace('-', '_')}.py" for each in RECIPES if each.environment != ENVIRONMENT
]
if ENVIRONMENT != "shared":
    collect_ignore.append("test_through_gateway.py")


THEIRS = ("ignore::UserWarning", "ignore::DeprecationWarning")  # warnings of frameworks


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings(*THEIRS))
    if ENVIRONMENT is not None:
        items[:] = [item for item in items if ENVIRONMENT in environments(item)]


def environments(item):
    return [name for mark in item.iter_markers("sdks") for name in mark.args]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Hide the settings of this machine, set our own keys and switch telemetry off."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    for name in ("OPENAI_AGENTS_DISABLE_TRACING", "LITELLM_LOCAL_MODEL_COST_MAP"):
        monkeypatch.setenv(name, "true")
