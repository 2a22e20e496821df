"""Write the rows of a table with their results as CSV, Parquet or JSON lines, by the suffix of the file.

The table is read again, so its own columns keep their values and, in Parquet, their types.
"""

import re
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from stormbreak.batch import parquet
from stormbreak.batch.export.results import RESULT_COLUMNS, Results
from stormbreak.batch.input.index import Rows as Requests
from stormbreak.batch.input.table import Record, Table, format_of
from stormbreak.batch.input.table_requests import plain_value, text_of
from stormbreak.batch.store.durable_file import replacing
from stormbreak.errors import ConfigurationError
from stormbreak.escape import quote

_FORMULA = re.compile(r"[=+\-@\t\r]")
_UNSAFE = re.compile(r'["\r\n]|^\s|\s$')
_TYPES = {"input_tokens": "int64", "output_tokens": "int64", "attempts": "int64", "cost": "float64"}


class RequestIds:
    """Rows that are requests: their only column is their id."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def columns(self) -> tuple[str, ...]:
        return ("custom_id",)

    def records(self) -> Iterator[Record]:
        return ({"custom_id": custom_id} for custom_id in self._requests.ids())


Rows = Table | RequestIds  # the results go next to these


def write_table(
    path: Path, rows: Rows, results: Results, *, prefix: str = "", escape_formulas: bool = False
) -> None:
    """Write a table in the format that the suffix of `path` names; replace the file in one step.

    `prefix` is put before the names of the results. With `escape_formulas`, a `'` is put before CSV cells that a
    spreadsheet would run as a formula. Raises ConfigurationError if a column has the name of a result, or a file cannot
    be read or written.
    """
    columns = rows.columns()
    if columns is None:
        columns = tuple(dict.fromkeys(key for record in rows.records() for key in record))
    check_columns(columns, prefix)
    form = format_of(path)
    with replacing(path) as file:
        if form == "parquet":
            _write_parquet(file, rows, results, columns, prefix)
        elif form == "csv":
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            write_csv(
                file,
                _joined(rows, results, prefix),
                (*columns, *names(prefix)),
                delimiter,
                escape_formulas=escape_formulas,
            )
        else:
            for record in _joined(rows, results, prefix):
                file.write(msgspec.json.encode(record, enc_hook=plain_value) + b"\n")


def names(prefix: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in RESULT_COLUMNS)


def check_columns(columns: Container[str], prefix: str, name: str = "") -> None:
    """Raise ConfigurationError if a column has the name of a result."""
    taken = next((each for each in names(prefix) if each in columns), None)
    if taken is not None:
        where = f"{name}: " if name else ""
        what = f"has a column {quote(taken)}, as the results have"
        raise ConfigurationError(f"{where}{what}; set --prefix for theirs")


def _joined(rows: Rows, results: Results, prefix: str) -> Iterator[Record]:
    keys = names(prefix)
    for index, record in enumerate(rows.records()):
        yield record | dict(zip(keys, results.at(index), strict=True))


def write_csv(
    file: BinaryIO,
    records: Iterator[Record],
    columns: Sequence[str],
    delimiter: str,
    *,
    escape_formulas: bool,
) -> None:
    """Write RFC 4180: null is an empty cell, the empty string is one in quotes."""

    def cell(value: object) -> str:
        text = text_of(value)
        if not text and not isinstance(value, str):
            return ""
        if escape_formulas and isinstance(value, str) and _is_formula(text):
            text = f"'{text}"
        if not text or delimiter in text or _UNSAFE.search(text):
            return '"' + text.replace('"', '""') + '"'
        return text

    file.write((delimiter.join(map(cell, columns)) + "\r\n").encode())
    for record in records:
        line = delimiter.join(cell(record.get(column)) for column in columns)
        file.write((line + "\r\n").encode(errors="replace"))


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet takes it for a formula; a number is not one."""
    if not _FORMULA.match(text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _write_parquet(
    file: BinaryIO, rows: Rows, results: Results, columns: Sequence[str], prefix: str
) -> None:
    pa = parquet.pyarrow()
    own = _schema(rows, columns)
    types = [
        pa.field(prefix + name, getattr(pa, _TYPES.get(name, "string"))())
        for name in RESULT_COLUMNS
    ]
    schema = own
    for field in types:
        schema = schema.append(field)
    try:
        with parquet.pyarrow_parquet().ParquetWriter(file, schema, compression="zstd") as writer:
            first = 0
            for batch in _batches(rows, own):
                found = [results.at(first + each) for each in range(batch.num_rows)]
                made = [
                    pa.array(values, field.type)
                    for values, field in zip(zip(*found, strict=True), types, strict=True)
                ]
                arrays = [*batch.columns, *made]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                first += batch.num_rows
    except pa.ArrowException as error:  # its message may repeat a value
        what = f"the rows cannot be written as Parquet ({type(error).__name__})"
        raise ConfigurationError(what) from None


def _schema(rows: Rows, columns: Sequence[str]) -> Any:
    """The types of the row's own columns: from Parquet, text for CSV, and from the values of JSON lines."""
    if isinstance(rows, Table) and rows.format == "parquet":
        return parquet.read_schema(rows.paths[0])
    pa = parquet.pyarrow()
    if isinstance(rows, Table) and rows.format == "jsonl":
        return parquet.infer_schema(chunks(rows.records()), columns)
    return pa.schema([(column, pa.string()) for column in columns])


def _batches(rows: Rows, schema: Any) -> Iterator[Any]:
    if isinstance(rows, Table) and rows.format == "parquet":
        for batch in rows.batches():
            yield batch if batch.schema.equals(schema) else batch.cast(schema)
        return
    for records in chunks(rows.records()):
        yield parquet.to_batch(records, schema)


def chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Take as many rows at a time as `parquet.read_batches` does."""
    while chunk := list(islice(records, parquet.READ_ROWS)):
        yield chunk
