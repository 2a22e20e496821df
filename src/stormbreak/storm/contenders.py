"""Finding a policy by what a user calls it: a baseline, a preset, or a file; or by what a program gives."""

from difflib import get_close_matches
from pathlib import Path

from stormbreak.config import resolve_policy
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.errors import ConfigurationError
from stormbreak.keylike import quoted
from stormbreak.provider.scenario import Scenario
from stormbreak.storm.baselines import BASELINES, NamedPolicy


def find(name: str) -> NamedPolicy:
    """Find the contender called `name`.

    Raises:
        ConfigurationError: there is none, or the file is wrong.
    """
    if name in BASELINES:
        return BASELINES[name]
    if name not in PRESETS and not _may_be_a_file(name):
        known = list(dict.fromkeys([*PRESETS, *BASELINES]))
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(
            f"no policy and no file is called {quoted(name)}; {hint}there are: {', '.join(known)}"
        )
    return NamedPolicy(name=name, policy=resolve_policy(name))


def own(scenario: Scenario, *, source: str) -> NamedPolicy:
    """Find the policy that the scenario itself names; `source` is what the user calls the scenario.

    Raises:
        ConfigurationError: it names none that exists.
    """
    try:
        return find(scenario.load.preset if scenario.load else "interactive")
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: load.preset: {error}") from None


def meant(policy: str | Path | Policy | NamedPolicy | None, scenario: Scenario) -> NamedPolicy:
    """Find what a program means: a name, a path, a value, or None for the scenario's own.

    Raises:
        ConfigurationError: there is none, or the file is wrong.
    """
    return own(scenario, source=scenario.name) if policy is None else given(policy)


def given(policy: str | Path | Policy | NamedPolicy) -> NamedPolicy:
    """Find the contender that a program gives: a name, a path or a value.

    Raises:
        ConfigurationError: there is none, or the file is wrong.
    """
    if isinstance(policy, NamedPolicy):
        return policy
    if isinstance(policy, Policy):
        return NamedPolicy(name="the policy", policy=policy)
    return find(str(policy))


def _may_be_a_file(name: str) -> bool:
    try:
        return "/" in name or name.endswith(".toml") or Path(name).exists()
    except (OSError, ValueError):
        return False
