"""Exceptions that accept no notes or attributes are raised unchanged."""

from dataclasses import dataclass

import pytest
from guarding import Script, at_rest, made
from table_test import table_test


@dataclass(frozen=True)
class FrozenError(Exception):
    number: int = 0


class StubbornError(Exception):
    def __setattr__(self, name, value):
        raise RuntimeError("nothing is set here")


class OddNotesError(Exception):
    __notes__ = None


@table_test("kind", [FrozenError, StubbornError, OddNotesError])
def test_an_exception_without_notes_is_raised_unchanged(kind):
    guard, raised = made(on=kind), kind()
    with pytest.raises(kind) as caught:
        guard.call(Script(raised, raised, raised))
    assert caught.value is raised
    assert at_rest(guard)
