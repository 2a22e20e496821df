"""A module stops at 600 lines, a function at 60: see CONTRIBUTING."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stormbreak"
MODULES = sorted(SOURCE.rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "misc", "manager"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_is_small_and_well_named(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    assert path.stem not in VAGUE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"
