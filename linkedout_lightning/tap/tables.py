"""Tables of text, from the formats in which catalogues come. Every value is a string."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from linkedout_lightning.errors import ConfigError, DataError

Row = dict[str, str]
_LONGEST_FIELD = 1 << 24  # Python's own limit, 128 KiB, is below what descriptions reach.
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".item": "\t"}
_MICROLENS_HEADERS = {"item", "item_id", "id", "video_id"}


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Read a table whole.

    Args:
        path: ``.csv``, ``.tsv``, RecBole's ``.item``, ``.jsonl`` (all also with ``.gz``) or
            ``.parquet``.

    Returns:
        Names of the columns and the rows; absent values are empty strings.

    Raises:
        ConfigError: There is no such file, or its format is not known.
        DataError: The file does not hold what its name says; the message names the line.
    """
    if not path.is_file():
        raise ConfigError(f"`items` is {str(path)!r}, but there is no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:] or [""]
    if kind[0] == ".parquet":
        return _parquet(path)
    if kind[0] not in (*_DELIMITERS, ".jsonl"):
        raise ConfigError(
            f"`items` is {str(path)!r}; give a .csv, .tsv, .item or .jsonl file (each also with "
            ".gz), or .parquet"
        )
    opened = gzip.open if packed else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            if kind[0] == ".jsonl":
                return _json_lines(stream, path)
            return _delimited(stream, path, _DELIMITERS[kind[0]])
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{str(path)!r} cannot be read as text in UTF-8: {error}") from error


def _delimited(stream: TextIO, path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(stream, delimiter=delimiter)
    try:
        first = next(reader, None)
        if first is None:
            raise DataError(f"{str(path)!r} is empty")
        names = [name.strip() for name in first]
        given: list[list[str]] = []
        if _is_microlens(path) and names[0].lower() not in _MICROLENS_HEADERS:
            names, given = ["item", "title"], [first]
        # RecBole's atomic files have the type in the name: `item_id:token`.
        names = [name.partition(":")[0] for name in names]
        rows = [_row(names, values, path, line) for line, values in enumerate(given, 1)]
        rows += [_row(names, values, path, reader.line_num) for values in reader if values]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {str(path)!r}: {error}") from error
    return names, rows


def _row(names: list[str], values: list[str], path: Path, line: int) -> Row:
    if len(values) > len(names) == 2 and _is_microlens(path):
        # The authors' files leave commas in titles unquoted in places.
        values = [values[0], ",".join(values[1:])]
    if len(values) != len(names):
        raise DataError(
            f"line {line} of {str(path)!r} has {len(values)} values for {len(names)} columns "
            f"({', '.join(names)})"
        )
    row = dict(zip(names, values, strict=True))
    row[names[0]] = row[names[0]].strip()
    return row


def _is_microlens(path: Path) -> bool:
    return "_title" in path.name.lower() and ".csv" in path.name.lower()


def _json_lines(stream: TextIO, path: Path) -> tuple[list[str], list[Row]]:
    rows = list(_json_rows(stream, path))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [{name: row.get(name, "") for name in names} for row in rows]


def _json_rows(stream: TextIO, path: Path) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} of {str(path)!r} is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"line {number} of {str(path)!r} is no JSON object")
        yield {str(name): _text(item) for name, item in value.items()}


def _parquet(path: Path) -> tuple[list[str], list[Row]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is no Parquet file: {error}") from error
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    names = list(table.column_names)
    return names, [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    """A cell as text: tags in a list are joined, whole floats lose their ``.0``."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
