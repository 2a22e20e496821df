"""The installed SDKs: their HTTP library, their defaults, and what to know of them."""

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from stormbreak.doctor.findings import LONG, Finding, Severity
from stormbreak.doctor.sdks import NONE, SDKS, Default, Sdk

# ---------------------------------------------------------------- defaults, read from source
# The package is not imported: an import may take seconds, or have side effects.

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


# ---------------------------------------------------------------- installed SDKs

_LIBRARIES = ("httpx2", "httpx")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOVED = "SDKs move: what was true of one major version may not be of the next."


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A default: seconds or retries, or words. `read` from what is installed, or else known of the version that was checked."""

    value: float | str
    read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An SDK as it is here. `library` is the HTTP library that carries its calls, with its version, if that is known."""

    name: str
    version: str
    library: str
    retries: Setting
    timeout: Setting
    door: str
    checked: str


def installed() -> list[Installed]:
    """What is installed of the SDKs that are known, in the order of the table."""
    return [_described(sdk, found) for sdk in SDKS if (found := _found(sdk.name)) is not None]


def told_of(everything: Sequence[Installed]) -> Iterator[Finding]:
    """What to know of what is installed: defaults that wait for ever, traps, and parts that are missing."""
    known = {sdk.name: sdk for sdk in SDKS}
    for one in everything:
        where = f"{one.name} {one.version}"
        yield from _missing(one, where)
        yield from _untimed(one, where)
        for trap in known[one.name].traps:
            yield _note("trap", where, trap, one.door)
        if one.version.split(".")[0] != one.checked.split(".")[0]:
            what = f"its facts were checked against {one.checked}; only what is read from its source is of {one.version}"
            yield _note(
                "other-version", where, what, f"stormbreak as new as {one.name}, or examine()"
            )


def _described(sdk: Sdk, found: Distribution) -> Installed:
    library = _library(found if sdk.over is None else _found(sdk.over))
    return Installed(
        name=sdk.name,
        version=found.version,
        library=library,
        retries=_setting(found, sdk.retries),
        timeout=_setting(found, sdk.timeout),
        door=sdk.door.replace("<library>", library.partition(" ")[0] or _LIBRARIES[0]),
        checked=sdk.checked,
    )


def _setting(found: Distribution, default: Default) -> Setting:
    if not default.file:
        return Setting(value=default.value, read=False)
    try:
        number = number_in(found, default.file, default.name)
    except Unreadable:
        return Setting(value=default.value, read=False)
    if number is None:
        return Setting(value=default.none, read=True)
    number -= default.includes_first
    return Setting(value=int(number) if number.is_integer() else number, read=True)


def _found(name: str) -> Distribution | None:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return found if found.version else None  # what is left of a package that was removed has none


def _library(found: Distribution | None) -> str:
    """The HTTP library that a package asks for, with the version that is here; empty where it asks for none that we know."""
    asked = _asked(found)
    for library in _LIBRARIES:
        if library in asked:
            here = _found(library)
            return f"{library} {'(missing)' if here is None else here.version}"
    return ""


def _asked(found: Distribution | None) -> set[str]:
    """What a package cannot do without."""
    lines = (found.requires or []) if found is not None else []
    names = (_NAME.match(line) for line in lines if "extra ==" not in line)
    return {name[0].lower() for name in names if name is not None}


def _missing(one: Installed, where: str) -> Iterator[Finding]:
    if one.library.endswith("(missing)"):
        yield Finding(
            severity=Severity.WRONG,
            name="missing-library",
            where=where,
            what=f"it needs {one.library.partition(' ')[0]}, which is not installed",
            why="It cannot be imported, or fails at its first call.",
            instead=f"pip install --upgrade {one.name}",
        )


def _untimed(one: Installed, where: str) -> Iterator[Finding]:
    span = one.timeout.value
    silent = one.library != "" and span == NONE
    if not silent and (isinstance(span, str) or span < LONG):
        return
    yield Finding(
        severity=Severity.RISK if silent else Severity.NOTE,
        name="no-timeout" if silent else "long-timeout",
        where=where,
        what="it has no timeout by itself" if silent else f"its timeout is {span:g} s by itself",
        why="Unless your code sets one, a server that goes silent holds its callers for that long, on each attempt.",
        instead="a timeout, or a transport of stormbreak's: the policy's deadline bounds the whole call",
    )


def _note(name: str, where: str, what: str, instead: str) -> Finding:
    return Finding(
        severity=Severity.NOTE,
        name=name,
        where=where,
        what=what,
        why="A default that nobody chose decides in a storm." if name == "trap" else _MOVED,
        instead=instead,
    )
