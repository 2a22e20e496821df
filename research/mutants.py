"""Mutants: the source of a module with one small thing wrong.

Comparisons moved by their edge, arithmetic turned round, `and` for `or`, `not` dropped, conditions negated, numbers
changed, `min` for `max`, results dropped, statements deleted. Annotations, docstrings, slots and texts stay.
A mutant is named by where it is and what was changed, without its line, so that a verdict outlives edits elsewhere.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip
_SWAPPED = {"min": "max", "max": "min"}
_DELETABLE = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
_NAMES = "__slots__", "name", "kind"


class Mutant(NamedTuple):
    """One change: its name, the line it is in, and the whole module with it.

    `lines` are those of its statement, and `function` is the outermost function whose body has the change: None for
    one that happens on import.
    """

    name: str
    lines: range
    source: str
    function: str | None


class _Change(NamedTuple):
    """`node.field` becomes `value`; told as `before` and `after`."""

    node: ast.AST
    field: str
    value: Any
    before: str
    after: str
    line: int


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in order."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    statements = _statements(tree)
    for where, function, change in _changes(tree, "", None):
        kept = getattr(change.node, change.field)
        setattr(change.node, change.field, change.value)
        mutated = ast.unparse(ast.fix_missing_locations(tree))
        setattr(change.node, change.field, kept)
        name = f"{where}: {change.before} -> {change.after}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        lines = statements.get(change.line, range(change.line, change.line + 1))
        yield Mutant(name, lines, mutated, function)


def _statements(tree: ast.Module) -> dict[int, range]:
    """The lines of the statement that each line belongs to, without the statements inside."""
    found: dict[int, range] = {}
    for node in ast.walk(tree):  # the outer ones first
        if isinstance(node, ast.stmt):
            inner = getattr(node, "body", None)
            end = max(node.lineno, inner[0].lineno - 1) if inner else node.end_lineno or node.lineno
            lines = range(node.lineno, end + 1)
            found |= dict.fromkeys(lines, lines)
    return found


def _changes(
    node: ast.AST, where: str, function: str | None
) -> Iterator[tuple[str, str | None, _Change]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    if _is_kept(node):
        return
    inside = function or (where if isinstance(node, ast.FunctionDef) else None)
    for change in _of(node):
        yield where or "module", inside, change
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "bases", "type_params"}:
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _changes(part, where, inside if field == "body" else function)


def _is_kept(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return isinstance(target, ast.Name) and target.id in _NAMES
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
    return isinstance(node, ast.Import | ast.ImportFrom)


def _of(node: ast.AST) -> Iterator[_Change]:
    yield from _operators(node)
    yield from _values(node)
    yield from _conditions(node)
    yield from _deletions(node)


def _operators(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            ops = [*node.ops[:index], _COMPARED[type(op)](), *node.ops[index + 1 :]]
            yield _change(node, "ops", ops)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _COMPUTED:
        yield _change(node, "op", _COMPUTED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _change(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SWAPPED
    ):
        yield _change(node, "func", ast.Name(_SWAPPED[node.func.id], ast.Load()))


def _values(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Constant) and _is_number(node.value):
        yield _change(node, "value", node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _change(node, "value", not node.value)
    elif isinstance(node, ast.Return) and not _is_nothing(node.value):
        yield _change(node, "value", ast.Constant(None))


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)


def _is_nothing(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _conditions(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        test = ast.UnaryOp(ast.Not(), node.test)
        before = ast.unparse(node.test)
        yield _Change(node, "test", test, f"if {before}", f"if not {before}", node.test.lineno)
    for field, value in ast.iter_fields(node):
        parts = value if isinstance(value, list) else [value]
        for index, part in enumerate(parts):
            if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not | ast.USub):
                bare = [*parts[:index], part.operand, *parts[index + 1 :]]
                new = bare if isinstance(value, list) else part.operand
                before, after = ast.unparse(part), ast.unparse(part.operand)
                yield _Change(node, field, new, before, after, part.lineno)


def _deletions(node: ast.AST) -> Iterator[_Change]:
    for field in ("body", "orelse"):
        body = getattr(node, field, None)
        if not isinstance(body, list):
            continue
        for index, statement in enumerate(body):
            if not _is_deletable(statement):
                continue
            without = [*body[:index], ast.Pass(), *body[index + 1 :]]
            before = ast.unparse(statement)
            yield _Change(node, field, without, before, "(nothing)", statement.lineno)


def _is_deletable(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    if isinstance(statement, ast.Assign):
        return any(
            isinstance(target, ast.Attribute | ast.Subscript) for target in statement.targets
        )
    return isinstance(statement, _DELETABLE)


def _change(node: Any, field: str, value: Any) -> _Change:
    kept = getattr(node, field)
    before = ast.unparse(node)
    setattr(node, field, value)
    after = ast.unparse(node)
    setattr(node, field, kept)
    return _Change(node, field, value, before, after, node.lineno)
