"""A module has at most 600 lines, a function 60: see CONTRIBUTING."""

import ast
from pathlib import Path

from table_test import table_test

SOURCE = Path(__file__).parent.parent / "src" / "stormbreak"
MODULES = sorted(SOURCE.rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "misc", "manager"}


@table_test("path", MODULES)
def test_modules_are_small_and_well_named(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    assert path.stem not in VAGUE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"
