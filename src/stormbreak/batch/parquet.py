"""What we use of pyarrow, an optional dependency: Parquet files, zstd, and the schema of a table.

If it is not installed, everything here raises a ConfigurationError that says how to install it.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from stormbreak.batch.input.table_requests import text_of
from stormbreak.errors import ConfigurationError
from stormbreak.escape import path_of, plain, quote

READ_ROWS = 4_096  # rows in memory at a time, and in a row group of a file that we write


def pyarrow() -> Any:
    try:
        import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - optional
    except ImportError:
        what = "Parquet, zstd and data frames need pyarrow: pip install 'stormbreak[tables]'"
        raise ConfigurationError(what) from None
    return pa


def pyarrow_parquet() -> Any:
    pyarrow()
    from pyarrow import parquet  # noqa: PLC0415 - optional

    return parquet


def zstd_reader(file: BinaryIO) -> BinaryIO:
    return io.BufferedReader(pyarrow().CompressedInputStream(file, "zstd"), 2**20)


def read_schema(path: Path) -> Any:
    """Read the schema of a Parquet file. Raises ConfigurationError if it is not one."""
    pa = pyarrow()
    try:
        return pyarrow_parquet().read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def read_batches(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    """Read the rows of a Parquet file in order, in record batches."""
    pa = pyarrow()
    names = None if columns is None else list(columns)
    try:
        with pyarrow_parquet().ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=READ_ROWS, columns=names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def write_frame(frame: Any, file: BinaryIO) -> None:
    """Write a data frame of any library that speaks Arrow to a Parquet file."""
    pa = pyarrow()
    try:
        table = pa.table(frame)
        pyarrow_parquet().write_table(table, file, row_group_size=16 * READ_ROWS)
    except pa.ArrowException as error:
        # The first message may repeat a value; pandas adds one that names the column.
        why = str(error.args[-1]) if len(error.args) > 1 else type(error).__name__
        raise ConfigurationError(
            f"rows: the frame is not a table: {plain(why, limit=120)}"
        ) from None


def read_file(path: Path) -> Any:
    return pyarrow_parquet().read_table(path, memory_map=False)


def to_polars(table: Any) -> Any:
    try:
        import polars as pl  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigurationError("a polars frame needs polars: pip install polars") from None
    return pl.from_arrow(table)


def infer_schema(chunks: Iterable[list[dict[str, Any]]], columns: Sequence[str]) -> Any:
    """Find a type for each column that fits all its values; if no type does, it is text with JSON."""
    pa = pyarrow()
    types = dict.fromkeys(columns, pa.null())
    for records in chunks:
        for column, known in types.items():
            if known != pa.string():
                types[column] = _common(known, [record.get(column) for record in records])
    text = {column: pa.string() for column, kind in types.items() if kind == pa.null()}
    return pa.schema(list((types | text).items()))


def _common(known: Any, values: list[Any]) -> Any:
    """Return the type that holds these values and those of the known type."""
    pa = pyarrow()
    try:
        schemas = [pa.schema([("", kind)]) for kind in (known, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def to_batch(records: Sequence[dict[str, Any]], schema: Any) -> Any:
    """Make a record batch of rows; a text column holds other values as JSON."""
    pa = pyarrow()
    arrays = []
    for field in schema:
        values = [record.get(field.name) for record in records]
        if field.type == pa.string():
            values = [None if value is None else text_of(value) for value in values]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError):  # its message may repeat a value
            what = f"column {quote(field.name)} cannot be written as {field.type}"
            raise ConfigurationError(what) from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _unreadable(path: Path, error: Exception) -> ConfigurationError:
    if isinstance(error, OSError) and error.strerror:
        return ConfigurationError(f"{path_of(path)}: {error.strerror.lower()}")
    why = plain(str(error).partition("\n")[0], limit=120)
    return ConfigurationError(f"{path_of(path)}: not a Parquet file, or truncated ({why})")
