"""The claims of docs/background/theory.md: its commands, run again, and what they measure written below them.

A claim is a block with one `stormbreak storm run`, whose `--assert` holds of the policy that it names first. The table
between the marks below it is written by `make published`.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from kept import ROOT
from stormbreak.storm.measures import Measures, average

PAGE = ROOT / "docs" / "background" / "theory.md"

_CLAIM = re.compile(
    r"(?<=```console\n\$ )stormbreak (?P<command>storm run [^`]*?)\n```\n\n"
    r"<!-- measured -->\n(?P<table>.*?)(?=<!-- end -->)",
    re.DOTALL,
)
_NAMES = [field.name for field in fields(Measures)]


class Claim(NamedTuple):
    """A command of the page, as the arguments of `stormbreak`."""

    arguments: tuple[str, ...]

    @property
    def scenario(self) -> str:
        """What it plays."""
        return Path(self.arguments[2]).stem

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it, and get its measures as JSON; the code is 1 if what it asserts does not hold."""
        command = [sys.executable, "-m", "stormbreak", *self.arguments, "--json"]
        return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


def claims(text: str) -> list[Claim]:
    """All claims of a page, in order."""
    return [_claim(match["command"]) for match in _CLAIM.finditer(text)]


def _claim(command: str) -> Claim:
    return Claim(tuple(shlex.split(command.replace("\\\n", " "))))


def rewrite() -> None:
    """Run every command of the page, and write what it measures below it."""
    PAGE.write_text(_CLAIM.sub(_measured, PAGE.read_text()))


def _measured(match: re.Match[str]) -> str:
    claim = _claim(match["command"])
    run = claim.run()
    if run.returncode:
        sys.exit(f"{shlex.join(claim.arguments)}: {run.stderr.strip()}")
    head = match[0].removesuffix(match["table"])
    return head + "\n".join(_table(json.loads(run.stdout))) + "\n"


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    """A line for each policy, of its mean over the seeds."""
    yield "| policy | goodput | recovery | p99 | attempts per call | wasted | shed |"
    yield "|---" * 7 + "|"
    policies: dict[str, list[Measures]] = {}
    for run in document["runs"]:
        measures = Measures(**{name: run[name] for name in _NAMES})
        policies.setdefault(run["policy"], []).append(measures)
    for policy, runs in policies.items():
        mean = average(runs)
        yield (
            f"| `{Path(policy).stem}` | {_percent(mean.goodput)} | {_seconds(mean.recovery)} | {_seconds(mean.p99)} "
            f"| {mean.amplification:.2f} | {100 * mean.wasted:.1f} % | {mean.shed:,} |"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.3g} s"
