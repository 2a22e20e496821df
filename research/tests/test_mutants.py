"""Each mutant has one error, which its name describes."""

import ast

import pytest

from mutants import mutants

SOURCE = '''
"""Text."""
LIMIT = 2

class Machine:
    __slots__ = ("a",)

    def step(self, now: float = 1.5) -> bool:
        """Text."""
        if now > LIMIT and not self.a:
            self.a += min(1, now)
            return True
        if now is None:
            return None
        self.stop()
        return -now
'''


def names(source):
    return [mutant.name for mutant in mutants(source)]


def test_each_kind_of_mutant_is_made():
    assert sorted(names(SOURCE)) == [
        "Machine.step: -now -> now",
        "Machine.step: 1 -> 2",
        "Machine.step: 1.5 -> 2.5",
        "Machine.step: True -> False",
        "Machine.step: min(1, now) -> max(1, now)",
        "Machine.step: not self.a -> self.a",
        "Machine.step: now > LIMIT -> now >= LIMIT",
        "Machine.step: now > LIMIT and (not self.a) -> now > LIMIT or not self.a",
        "Machine.step: now is None -> now is not None",
        "Machine.step: return -now -> return None",
        "Machine.step: return True -> return None",
        "Machine.step: self.a += min(1, now) -> (nothing)",
        "Machine.step: self.a += min(1, now) -> self.a -= min(1, now)",
        "Machine.step: self.stop() -> (nothing)",
        "module: 2 -> 3",
    ]


def test_each_mutant_differs_from_the_original_and_from_every_other():
    sources = [mutant.source for mutant in mutants(SOURCE)]
    assert len({*sources, ast.unparse(ast.parse(SOURCE))}) == len(sources) + 1


def test_equal_mutants_have_numbered_names():
    assert names("a = 1 + b\nc = 1 + b\n") == [
        "module: 1 + b -> 1 - b", "module: 1 -> 2", "module: 1 + b -> 1 - b (2)", "module: 1 -> 2 (2)",
    ]  # fmt: skip


def test_each_mutant_knows_its_lines_and_its_function():
    found = {
        mutant.name.split(": ")[1]: (mutant.function, mutant.lines) for mutant in mutants(SOURCE)
    }

    assert found["2 -> 3"] == (None, range(3, 4))
    assert found["1.5 -> 2.5"] == (None, range(8, 9))  # a default: it runs on import
    assert found["1 -> 2"] == ("Machine.step", range(11, 12))
    assert found["self.stop() -> (nothing)"] == ("Machine.step", range(15, 16))


@pytest.mark.parametrize("source", ["if ready(): pass", "while busy: pass"])
def test_a_bare_condition_is_negated(source):
    (name,) = names(source)
    assert " -> if not " in name
