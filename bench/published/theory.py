"""The claims of docs/theory.md: its commands, run again, and what they measure written below them.

A claim is a block with one `stormbreak storm run`, whose `--assert` holds of the policy that it names first. The table
between the marks below it is written by `make published`.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner, Result

from kept import ROOT
from stormbreak.cli.main import main
from stormbreak.storm.measures import NAMES, Measures, average

PAGE = ROOT / "docs" / "theory.md"

_CLAIM = re.compile(
    r"```console\n\$ stormbreak (?P<command>storm run [^`]*?)\n```\n\n"
    r"<!-- measured -->\n(?P<table>.*?)<!-- end -->",
    re.DOTALL,
)
