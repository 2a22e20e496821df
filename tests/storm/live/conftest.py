"""Programs for live storms."""

import shlex
import sys
from pathlib import Path

import pytest

from stormbreak.storm.live import Program

ASKER = Path(__file__).parents[2] / "support" / "live_asker.py"


def _python(*words):
    return (sys.executable, "-S", *map(str, words))


@pytest.fixture
def asker():
    """The program that sends a request for each line; its source explains the arguments."""
    return lambda *more: Program("asker", _python(ASKER, *more))


@pytest.fixture
def script(tmp_path):
    """A program from its source, which may import the asker."""

    def write(source, name="script"):
        path = tmp_path / f"{name}.py"
        path.write_text(f"import sys\nsys.path.insert(0, {str(ASKER.parent)!r})\n{source}")
        return Program(name, _python(path))

    return write


@pytest.fixture
def typed():
    """A program as a user types it after --cmd."""
    return lambda program: f"{program.name}={shlex.join(program.words)}"
