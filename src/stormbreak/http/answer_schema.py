"""The schema of an answer: a JSON schema or a pydantic model, to check the text of an answer.

jsonschema-rs (the extra `schema`) checks JSON schemas, formats included. A reference to another document is rejected,
so that nothing is fetched. A pydantic model validates the answer, and its instance is the parsed value.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from stormbreak import file_reader
from stormbreak.core.checks import require
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.schema_request import response_format
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import Target

REPAIRS = 2  # default number of times that a model is asked again, and shown its errors
MAX_REPAIRS = 10

_KEPT = 64  # schemas of earlier calls
_MAX_ERRORS = 5  # shown to the model
_MAX_SHOWN = 300  # characters of each
_NO_JSON = "the answer is not JSON"

_encode = msgspec.json.Encoder(order="sorted").encode


class Problem(NamedTuple):
    """The errors of an answer. `detail` names only rules of the schema; `shown`, for the model, quotes the answer."""

    detail: str
    shown: str


_Check = Callable[[str], tuple[Any, Problem | None]]


class Misfit(NamedTuple):
    """The last, unfit answer of a target, and the idempotency key of the request that shows it to the model."""

    answer: str
    errors: str
    key: str


class Repairs:
    """The repairs of one request: their number, and the unfit answer that the next attempt at each target shows.

    A batch keeps them while a row waits to be sent again, so that the row continues with its remaining repairs.
    """

    __slots__ = ("count", "misfits")

    def __init__(self) -> None:
        self.count = 0
        self.misfits: dict[Target, Misfit] = {}


class AnswerSchema:
    """The required form of an answer.

    Args:
        source: a JSON schema as a dict, or a pydantic model.
        repairs: how often the model is asked again for an answer that fits.
        asks: ask the API for this form; otherwise answers are only checked.

    Raises:
        ConfigurationError: `source` is not a JSON schema or pydantic model, or `repairs` is invalid.
    """

    def __init__(self, source: object, *, repairs: int = REPAIRS, asks: bool = True) -> None:
        require(
            type(repairs) is int and 0 <= repairs <= MAX_REPAIRS,
            f"repairs must be a whole number from 0 to {MAX_REPAIRS}",
            repairs,
        )
        self.repairs = repairs
        self.asks = asks
        self.json = json_schema_of(source)
        self.encoded = _encoded(self.json)
        self._formats: dict[Shape, msgspec.Raw | None] = {}
        self._check = _check_by_model(source) if _is_model(source) else _validator(self.encoded)

    def format_of(self, shape: Shape) -> msgspec.Raw | None:
        """Return the response format for requests, encoded; None if the API is not asked."""
        if not self.asks:
            return None
        if shape not in self._formats:
            found = response_format(self.json, shape)
            self._formats[shape] = None if found is None else msgspec.Raw(_encode(found))
        return self._formats[shape]

    @property
    def digest(self) -> str:
        """Identifies the schema."""
        return blake2b(self.encoded, digest_size=8).hexdigest()

    def read(self, text: str) -> tuple[Any, Problem | None]:
        """Return the value of an answer, or its errors."""
        return self._check(text)


Schema: TypeAlias = Mapping[str, Any] | type | AnswerSchema
"""The argument of callers: a JSON schema, a pydantic model, or an existing `AnswerSchema`."""


def schema_of(source: object, repairs: int, *, asks: bool = True) -> AnswerSchema:
    """Make the schema of a call; an `AnswerSchema` is returned unchanged."""
    if isinstance(source, AnswerSchema):
        return source
    if isinstance(source, Mapping):
        return _made(_encoded(source), repairs, asks)
    if isinstance(source, type):
        return _made(source, repairs, asks)
    return AnswerSchema(source, repairs=repairs, asks=asks)  # rejects it; it may have no hash


@lru_cache(maxsize=_KEPT)
def _made(source: bytes | type, repairs: int, asks: bool) -> AnswerSchema:  # noqa: FBT001 - a cache's key
    schema = msgspec.json.decode(source) if isinstance(source, bytes) else source
    return AnswerSchema(schema, repairs=repairs, asks=asks)


def read_schema(path: Path, *, repairs: int = REPAIRS, asks: bool = True) -> AnswerSchema:
    """Read a JSON schema from a file. Raises ConfigurationError."""
    try:
        return AnswerSchema(
            msgspec.json.decode(file_reader.read_text(str(path), what="a JSON schema")),
            repairs=repairs,
            asks=asks,
        )
    except UNREADABLE as error:
        why = f"is not JSON: {error}"
    except ConfigurationError as error:
        why = str(error)
    raise ConfigurationError(f"{path_of(path)}: {why}")


def json_schema_of(source: object) -> dict[str, Any]:
    """Return the JSON schema of a dict or of a pydantic model."""
    if _is_model(source):
        schema: dict[str, Any] = source.model_json_schema()  # type: ignore[attr-defined]
        return schema
    if isinstance(source, Mapping):
        return dict(source)
    raise ConfigurationError(
        f"schema must be a JSON schema (a dict) or a pydantic model, got {type(source).__name__}"
    )


def _is_model(source: object) -> bool:
    return isinstance(source, type) and hasattr(source, "model_validate_json")


def _encoded(schema: Mapping[str, Any]) -> bytes:
    try:
        return _encode(schema)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"schema is not JSON: {type(error).__name__}") from None


# ---------------------------------------------------------------- checks


def _validator(schema: bytes) -> _Check:
    """Make the check of a JSON schema. Raises ConfigurationError."""
    try:
        import jsonschema_rs  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigurationError(
            "a JSON schema needs jsonschema-rs: pip install 'stormbreak[schema]'"
        ) from None
    try:
        validator = jsonschema_rs.validator_for(
            msgspec.json.decode(schema), validate_formats=True, offline=True
        )
    except (ValueError, RecursionError) as error:
        where = "/".join(str(part) for part in getattr(error, "instance_path", ()))
        what = plain(getattr(error, "message", type(error).__name__), limit=_MAX_SHOWN)
        raise ConfigurationError(
            f"schema is not a JSON schema: {f'{where}: ' if where else ''}{what}"
        ) from None

    def check(text: str) -> tuple[Any, Problem | None]:
        try:
            value = msgspec.json.decode(text)
        except UNREADABLE as error:
            return None, Problem(_NO_JSON, f"{_NO_JSON}: {error}")
        if validator.is_valid(value):
            return value, None
        errors = list(validator.iter_errors(value))
        return None, _problem(
            [("/".join(map(str, each.schema_path)), _at(each)) for each in errors]
        )

    return check


def _at(error: Any) -> str:
    path = "".join(f"/{part}" for part in error.instance_path)
    return f"{path or 'the whole answer'}: {error.message}"


def _check_by_model(model: Any) -> _Check:
    """Make the check of a pydantic model. A path in the answer may contain invented names; names of fields are safe."""

    def check(text: str) -> tuple[Any, Problem | None]:
        try:
            return model.model_validate_json(text), None
        except ValueError as error:  # includes pydantic's ValidationError
            errors = error.errors() if hasattr(error, "errors") else []
        found = [
            (
                f"{each['loc'][0]}/{each['type']}"
                if each["loc"][:1] and each["loc"][0] in model.model_fields
                else each["type"],
                f"/{'/'.join(map(str, each['loc']))}: {each['msg']}",
            )
            for each in errors
        ]
        return None, _problem(found) if found else Problem(_NO_JSON, _NO_JSON)

    return check


def _problem(errors: list[tuple[str, str]]) -> Problem:
    more = f"; and {len(errors) - 1} more" if errors[1:] else ""
    shown = [plain(text, limit=_MAX_SHOWN) for _, text in errors[:_MAX_ERRORS]]
    return Problem(f"does not fit the schema: {plain(errors[0][0])}{more}", "\n".join(shown))
