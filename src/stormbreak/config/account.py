"""A policy in words: what it will do, one sentence or two for each part.

Each kind of part has a text with a place for every one of its fields; a test sees to it that none is
missing. A place says how its value is said::

    {patience:seconds}            10 minutes            {close_at:share}    50 %
    {calls:times call}            10 calls              {failures:several}  throttled and timeout
    {cooldown:either yes|no}      by a bool             {jitter:plain}      as it is
    {spread:moved stretched}      stretched by chance by up to 50 %, not stretched by chance
    {growth:grown}                2 times as long, as long again
    {rules:parts}                 the texts of several
    {fallback:parts none}         the same, or what is said where there are none
    {text:name}                   a text as it is       {longest_answer:bounded}  bounded to 512 tokens
    {budget:part no budget}       the text of that part, or what is said where there is none
    {deadline:seconds|no bound}   likewise after a |, for other values
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from string import Formatter
from types import MappingProxyType
from typing import Any

from stormbreak.config import quantities
from stormbreak.config.schema import toml_word
from stormbreak.config.texts import TEXTS
from stormbreak.core.policy import Policy


def account(policy: Policy) -> Iterator[str]:
    """Tell the policy, a line for each statement."""
    return (line for line in told(policy).splitlines() if line)


def told(part: Any) -> str:
    """Tell one part of it."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return _SentenceFormatter().vformat(TEXTS[type(part)], (), values)


class _SentenceFormatter(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        spec, _, absent = format_spec.partition("|")
        how, _, what = spec.partition(" ")
        if how == "part":
            return told(value) if is_dataclass(value) else what
        if how == "either":
            return what if value else absent
        if value is None:
            return absent
        said: str = _SAID[how](value, what)
        return said


_SAID: Mapping[str, Any] = MappingProxyType(
    {
        "seconds": lambda value, _: quantities.seconds(value),
        "share": lambda value, _: quantities.share(value),
        "moved": quantities.moved,
        "grown": lambda value, _: quantities.grown(value),
        "times": quantities.times,
        "several": lambda value, _: quantities.several(value),
        "word": lambda value, _: toml_word(value),
        "bounded": lambda value, _: f"bounded to {quantities.times(value, 'token')}",
        "plain": lambda value, _: quantities.plain(value),
        "name": lambda value, _: value,
        "parts": lambda value, none: "\n".join(told(part) for part in value) or none,
        "names": lambda value, _: quantities.several(
            f"{there} for {asked}" for asked, there in value.items()
        ),
        "weights": lambda value, _: quantities.several(
            f"{tenant} {quantities.plain(weight)}" for tenant, weight in value.items()
        ),
    }
)
