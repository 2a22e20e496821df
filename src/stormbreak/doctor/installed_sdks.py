"""List the installed SDKs: their HTTP library, their defaults and known traps (sdks.toml)."""

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

import msgspec

from stormbreak.doctor.findings import LONG, Finding, Severity

# ---------------------------------------------------------------- known SDKs (sdks.toml)

NONE = "none"
NEVER_SENDS = "-"


class Default(msgspec.Struct, frozen=True, kw_only=True):
    """A default in the checked version, a number or text, and where the package defines it.

    `name` is a constant, `Class.field` or `function.argument`; a None there means `none`. With `includes_first` the
    number counts all attempts, not retries only.
    """

    value: float | str
    file: str = ""
    name: str = ""
    none: str = NONE
    includes_first: bool = False


class Sdk(msgspec.Struct, frozen=True, kw_only=True):
    """A package. `over` is the SDK that it uses; None if it has its own HTTP library, or none."""

    name: str
    checked: str
    retries: Default
    timeout: Default
    transport: str
    over: str | None = None
    traps: tuple[str, ...] = ()


class _File(msgspec.Struct):
    sdk: tuple[Sdk, ...]


def _load() -> tuple[Sdk, ...]:
    text = (files("stormbreak.doctor") / "sdks.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), _File).sdk


SDKS = _load()  # in the order in which they are listed


# ---------------------------------------------------------------- defaults, read from source
# Importing a package may take seconds or have side effects, so its source is parsed.

_MAX_SOURCE = 4_000_000  # bytes
_WRAPPERS = frozenset({"Field", "get_env_int", "Timeout"})
"""Calls whose argument is the value: the default of a field or variable, the number of a timeout."""
_KEYWORDS = ("default", "timeout", "read")


class DefaultNotFoundError(Exception):
    """The default is no longer there, or is not a number."""


def number_in(distribution: Distribution, file: str, name: str) -> float | None:
    """Return the number assigned to `name` in a file of the package; None if None is assigned.

    Raises DefaultNotFoundError if there is no such number.
    """
    path = Path(str(distribution.locate_file(file)))
    try:
        with path.open("rb") as source:
            tree = ast.parse(source.read(_MAX_SOURCE))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DefaultNotFoundError from error
    return _number(_value_of(tree.body, name.split(".")))


def _value_of(body: list[ast.stmt], names: list[str]) -> ast.expr:
    """Find the last value of a name, in a class or in the arguments of a function."""
    for node in reversed(body):
        if len(names) > 1:
            if isinstance(node, ast.ClassDef) and node.name == names[0]:
                return _value_of(node.body, names[1:])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
                return _default_of(node.args, names[1])
        elif names[0] in _assigned_by(node):
            value = getattr(node, "value", None)
            if isinstance(value, ast.expr):  # an annotation alone has none
                return value
    raise DefaultNotFoundError


def _assigned_by(node: ast.stmt) -> list[str]:
    match node:
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _default_of(arguments: ast.arguments, name: str) -> ast.expr:
    given = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(reversed(given), reversed(arguments.defaults), strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.arg == name and default is not None:
            return default
    raise DefaultNotFoundError


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
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _WRAPPERS:
                return _number(_wrapped(node))
    raise DefaultNotFoundError


def _wrapped(call: ast.Call) -> ast.expr:
    for name in _KEYWORDS:
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value
    if call.args:
        return call.args[-1]
    raise DefaultNotFoundError


# ---------------------------------------------------------------- installed SDKs

_LIBRARIES = ("httpx2", "httpx")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOVED = "SDKs change: a fact about one major version may be wrong for the next."


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A default in seconds or retries, or as text. `read` from the installed package, else from the checked version."""

    value: float | str
    read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An installed SDK. `library` is its HTTP library with the version, if known; `transport` is where ours goes."""

    name: str
    version: str
    library: str
    retries: Setting
    timeout: Setting
    transport: str
    checked: str


def installed() -> list[Installed]:
    return [_described(sdk, found) for sdk in SDKS if (found := _found(sdk.name)) is not None]


def check_installed(everything: Sequence[Installed]) -> Iterator[Finding]:
    """Check for missing libraries, defaults without a timeout, traps, and versions that were not checked."""
    known = {sdk.name: sdk for sdk in SDKS}
    for one in everything:
        where = f"{one.name} {one.version}"
        yield from _missing(one, where)
        yield from _untimed(one, where)
        for trap in known[one.name].traps:
            yield _note("trap", where, trap, one.transport)
        if one.version.split(".")[0] != one.checked.split(".")[0]:
            what = f"known facts are from version {one.checked}; only defaults read from source are from {one.version}"
            yield _note("other-version", where, what, "update stormbreak, or use examine()")


def _described(sdk: Sdk, found: Distribution) -> Installed:
    library = _library(found if sdk.over is None else _found(sdk.over))
    return Installed(
        name=sdk.name,
        version=found.version,
        library=library,
        retries=_setting(found, sdk.retries),
        timeout=_setting(found, sdk.timeout),
        transport=sdk.transport.replace("<library>", library.partition(" ")[0] or _LIBRARIES[0]),
        checked=sdk.checked,
    )


def _setting(found: Distribution, default: Default) -> Setting:
    if not default.file:
        return Setting(value=default.value, read=False)
    try:
        number = number_in(found, default.file, default.name)
    except DefaultNotFoundError:
        return Setting(value=default.value, read=False)
    if number is None:
        return Setting(value=default.none, read=True)
    number -= default.includes_first
    return Setting(value=int(number) if number.is_integer() else number, read=True)


def _found(name: str) -> Distribution | None:
    try:
        found = distribution(name)
        is_whole = "Version" in found.metadata
    except (PackageNotFoundError, FileNotFoundError):
        return None
    return found if is_whole else None  # remains of a removed package have no metadata


def _library(found: Distribution | None) -> str:
    """Return the HTTP library that a package requires, with the installed version; empty if it requires none."""
    required = _required(found)
    for library in _LIBRARIES:
        if library in required:
            here = _found(library)
            return f"{library} {'(missing)' if here is None else here.version}"
    return ""


def _required(found: Distribution | None) -> set[str]:
    lines = (found.requires or []) if found is not None else []
    names = (_NAME.match(line) for line in lines if "extra ==" not in line)
    return {name[0].lower() for name in names if name is not None}


def _missing(one: Installed, where: str) -> Iterator[Finding]:
    if one.library.endswith("(missing)"):
        yield Finding(
            Severity.WRONG,
            "missing-library",
            where,
            f"it needs {one.library.partition(' ')[0]}, which is not installed",
            why="Its import or its first call fails.",
            instead=f"pip install --upgrade {one.name}",
        )


def _untimed(one: Installed, where: str) -> Iterator[Finding]:
    span = one.timeout.value
    silent = one.library != "" and span == NONE
    if not silent and (isinstance(span, str) or span < LONG):
        return
    yield Finding(
        Severity.RISK if silent else Severity.NOTE,
        "no-timeout" if silent else "long-timeout",
        where,
        "it has no default timeout" if silent else f"its default timeout is {span:g} s",
        why="Unless your code sets one, a silent server blocks its callers for that long, on each attempt.",
        instead="a timeout, or a stormbreak transport: the policy's deadline bounds the whole call",
    )


def _note(name: str, where: str, what: str, instead: str) -> Finding:
    return Finding(
        Severity.NOTE,
        name,
        where,
        what,
        why="In a storm a default that you did not choose decides." if name == "trap" else _MOVED,
        instead=instead,
    )
