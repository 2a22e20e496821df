"""Reads defaults from the source of an installed package, without importing it: to import one may take seconds, or act."""

import ast
from contextlib import suppress
from importlib.metadata import Distribution
from pathlib import Path

_LARGEST = 4_000_000  # bytes of a module that is read
_WRAPPERS = frozenset({"Field", "get_env_int", "Timeout"})
"""Calls that are seen through: a field's default, a variable's, the one number of a timeout."""
_KEYWORDS = ("default", "timeout", "read")


class Unreadable(Exception):  # noqa: N818 - it is no error that anybody sees
    """The default is not there any more, or is no number."""


def number_in(distribution: Distribution, file: str, name: str) -> float | None:
    """The number that `name` is set to in a file of the package; None where it is set to None.

    Raises:
        Unreadable: whatever the reason.
    """
    path = Path(str(distribution.locate_file(file)))
    try:
        with path.open("rb") as source:
            tree = ast.parse(source.read(_LARGEST))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Unreadable from error
    return _number(_value_of(tree.body, name.split(".")))


def _value_of(body: list[ast.stmt], names: list[str]) -> ast.expr:
    """What is written for a name, in a class or of a function's arguments; the last of several."""
    for node in reversed(body):
        if len(names) > 1:
            if isinstance(node, ast.ClassDef) and node.name == names[0]:
                return _value_of(node.body, names[1:])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
                return _default_of(node.args, names[1])
        elif names[0] in _set_by(node):
            value = getattr(node, "value", None)
            if isinstance(value, ast.expr):  # an annotation alone has none
                return value
    raise Unreadable


def _set_by(node: ast.stmt) -> list[str]:
    """The names that a statement sets."""
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    return [ast.unparse(node.target)] if isinstance(node, ast.AnnAssign) else []


def _default_of(arguments: ast.arguments, name: str) -> ast.expr:
    given = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(given), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg == name and default is not None:
            return default
    raise Unreadable


def _number(node: ast.expr) -> float | None:
    with suppress(ArithmeticError):
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return float(value)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                one, other = _number(left), _number(right)
                if one is not None and other is not None:
                    return one * other
            case ast.Call(func=function) if ast.unparse(function).split(".")[-1] in _WRAPPERS:
                return _number(_wrapped(node))
    raise Unreadable


def _wrapped(call: ast.Call) -> ast.expr:
    for name in _KEYWORDS:
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value
    if call.args:
        return call.args[-1]
    raise Unreadable
