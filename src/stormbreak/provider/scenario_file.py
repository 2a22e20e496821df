"""Read and write scenarios as TOML; an error is one line with the file, the key and the value."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from stormbreak import file_reader, toml_reader
from stormbreak.errors import ConfigurationError, errors_at
from stormbreak.hidden_keys import quoted
from stormbreak.provider.canned_answers import CannedAnswer
from stormbreak.provider.scenario import Scenario

_WHAT = "a scenario"
_ANSWERS = "a file of answers"


def builtin_names() -> list[str]:
    folder = files("stormbreak.provider") / "scenarios"
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(name_or_path: str | Path) -> Scenario:
    """Load a built-in scenario by name, or read one from a file. All times are scenario seconds.

    Raises ConfigurationError if there is no such scenario, or it is invalid; names file, key and value.
    """
    name = str(name_or_path)
    source = f"{name}.toml" if name in builtin_names() else name
    return parse(text_of(name_or_path), source=source)


def text_of(name_or_path: str | Path) -> str:
    """Return the TOML of a scenario, by name or from a file, unchecked."""
    name = str(name_or_path)
    if name in builtin_names():
        return (files("stormbreak.provider") / "scenarios" / f"{name}.toml").read_text("utf-8")
    if not os.path.isfile(name):  # noqa: PTH113 - Path raises for odd names
        known = builtin_names()
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(
            f"no scenario or file has the name {quoted(name)}; {hint}scenarios: {', '.join(known)}"
        )
    with errors_at(name):
        return file_reader.read_text(name, what=_WHAT)


def parse(text: str, *, source: str = "scenario.toml") -> Scenario:
    """Parse a scenario from TOML; `source` names it in messages, and names the scenario if it has no name.

    Raises ConfigurationError if it is invalid; names key and value.
    """
    with errors_at(source):
        table = toml_reader.parse(text, what=_WHAT)
        table.setdefault("name", Path(source).stem)
        return toml_reader.read(Scenario, table)


@dataclass(frozen=True, slots=True)
class _Answers:
    answers: tuple[CannedAnswer, ...]


@dataclass(frozen=True, slots=True)
class _AnswersByMatch:
    answers: Mapping[str, CannedAnswer]


def load_answers(path: str | Path) -> tuple[CannedAnswer, ...]:
    """Read a file of `[[answers]]`."""
    with errors_at(path):
        table = toml_reader.parse(file_reader.read_text(path, what=_ANSWERS), what=_ANSWERS)
        return toml_reader.read(_Answers, table).answers


def answers_of(given: Mapping[str, str | Mapping[str, Any]]) -> tuple[CannedAnswer, ...]:
    """Make canned answers, by the text to match: each is a text, or the keys of an answer."""
    tables = {
        match: {"text": answer} if isinstance(answer, str) else answer
        for match, answer in given.items()
    }
    made = toml_reader.read(_AnswersByMatch, {"answers": tables}).answers
    return tuple(replace(answer, match=match) for match, answer in made.items())


def dump(scenario: Scenario) -> str:
    """Format a scenario as TOML that `parse` reads back; defaults are left out."""
    return tomli_w.dumps(_plain(scenario))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {
            item.name: _plain(given)
            for item in fields(value)
            if (given := getattr(value, item.name)) != item.default and given is not None
        }
    return value
