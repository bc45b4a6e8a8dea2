"""Interaction files as Arrow columns: RecBole's, MicroLens', CSV and Parquet, plain or gzipped."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from linkedout_lightning.data.columns import find_columns
from linkedout_lightning.errors import ConfigError, DataError

FORMATS = ("auto", "inter", "pairs", "csv", "parquet")

_DELIMITERS = ",\t;|"
# A user's whole sequence is one line of a pairs file, and Arrow needs a line to fit in a block.
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class RawInteractions:
    """Columns as they were read, one entry a row.

    Attributes:
        user: Arrow array of strings.
        item: Arrow array of strings.
        time: Arrow array of any type that orders, or None where the rows' order is all there is.
        source: Where they come from, for messages.
    """

    user: pa.Array
    item: pa.Array
    time: pa.Array | None
    source: str


def read_interactions(
    path: str | PathLike[str],
    *,
    format: str = "auto",
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
) -> RawInteractions:
    """Read a file of interactions, whichever of the known formats it has.

    Args:
        path: ``*.inter`` (RecBole: typed header, tabs), ``*_pairs.tsv`` (MicroLens: a user and all
            the items, oldest first), any table with a header and user, item and time columns
            (``.csv``, ``.tsv``, ``.txt``), or ``.parquet``; each text file also as ``.gz``. A
            folder stands for the one file ``<folder name>.inter`` in it, as in RecBole.
        format: One of ``auto``, ``inter``, ``pairs``, ``csv``, ``parquet``.
        user_column: Name of the column, None to look for the usual names.
        item_column: Likewise.
        time_column: Likewise; ``"row-order"`` says that there is none and the rows are in order.

    Raises:
        DataError: No such file, an empty file, or columns that are not there.
        ConfigError: An unknown format.
    """
    if format not in FORMATS:
        raise ConfigError(f"`format` is {format!r}; give one of {', '.join(FORMATS)}")
    file = Path(path)
    if file.is_dir():
        file = file / f"{file.resolve().name}.inter"
    if not file.is_file():
        raise DataError(f"there is no interaction file {fspath(file)!r}")
    chosen = _guess(file) if format == "auto" else format
    if chosen == "pairs":
        return _read_pairs(file)
    named = {"user": user_column, "item": item_column, "time": time_column}
    table = _read_parquet(file, named) if chosen == "parquet" else _read_text(file, named, chosen)
    user, item, *time = (_one_array(column) for column in table.columns)
    return RawInteractions(
        user=_as_text(user, "user", file),
        item=_as_text(item, "item", file),
        time=time[0] if time else None,
        source=str(path),
    )


def read_titles(path: str | PathLike[str]) -> dict[str, str]:
    """Titles by item id, from a file such as MicroLens' ``_title_en.csv`` (also ``.gz``).

    The first column is the item and the second the title; a header line is recognised by its
    first cell. Quoted commas and line breaks belong to the title. Where an item occurs more than
    once, the last title counts.

    Raises:
        DataError: No such file, or fewer than two columns.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"there is no title file {fspath(file)!r}")
    delimiter, cells = _first_line(file)
    if len(cells) < 2:
        raise DataError(f"{file} must hold an item and a title in each line, got {cells}")
    header = cells[0].strip().lower() in {"item", "item_id", "itemid", "id", "video", "video_id"}
    names = [f"column_{i}" for i in range(len(cells))]
    table = _read_delimited(
        file, delimiter, names, use=names[:2], text=names[:2], skip=int(header), quote='"'
    )
    ids, titles = (column.to_pylist() for column in table.columns)
    return {i: t or "" for i, t in zip(ids, titles, strict=True) if i is not None}


def _guess(file: Path) -> str:
    suffixes = [s.lower() for s in file.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".zst"):
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".inter":
        return "inter"
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if suffix in (".tsv", ".txt"):
        # A MicroLens line is "user<TAB>item item ...", and its first line is data already.
        delimiter, cells = _first_line(file)
        if delimiter == "\t" and len(cells) == 2 and " " in cells[1].strip():
            return "pairs"
    if suffix in (".csv", ".tsv", ".txt"):
        return "csv"
    raise DataError(
        f"cannot tell the format of {str(file)!r} by its name; "
        f"give format=, one of {', '.join(FORMATS[1:])}"
    )


def _read_pairs(file: Path) -> RawInteractions:
    lines = _read_delimited(file, "\t", ["user", "items"], text=["user", "items"], quote=False)
    users, items = (_one_array(column) for column in lines.columns)
    if users.null_count or items.null_count:
        raise DataError(f"{file}: every line must be 'user<TAB>item item ...'; one is incomplete")
    pieces = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(items))
    # The order of the rows is the order in time: the file has no other.
    return RawInteractions(
        user=pc.take(users, pc.list_parent_indices(pieces)),
        item=pc.list_flatten(pieces),
        time=None,
        source=str(file),
    )


def _read_text(file: Path, named: dict[str, str | None], kind: str) -> pa.Table:
    delimiter, header = _first_line(file, "\t" if kind == "inter" else _DELIMITERS)
    typed = kind == "inter" and all(":" in name for name in header)
    if kind == "inter" and not typed:
        raise DataError(f"{file}: a RecBole header reads 'user_id:token<TAB>...', got {header}")
    plain = [name.rsplit(":", 1)[0] for name in header] if typed else header
    columns = find_columns(plain, where=str(file), **named)
    use = [name for name in columns if name is not None]
    kinds = dict(zip(plain, header, strict=True))
    for name in use[:2]:
        if typed and kinds[name].endswith("_seq"):
            raise DataError(
                f"{file}: column {kinds[name]!r} holds sequences; give the file with one "
                "interaction a row"
            )
    quote: str | bool = False if kind == "inter" else '"'
    return _read_delimited(file, delimiter, plain, use=use, text=use[:2], skip=1, quote=quote)


def _read_parquet(file: Path, named: dict[str, str | None]) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(file)
        columns = find_columns(source.schema_arrow.names, where=str(file), **named)
        use = [name for name in columns if name is not None]
        return source.read(columns=use).select(use)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} is not a readable Parquet file: {error}") from error


def _first_line(file: Path, delimiters: str = _DELIMITERS) -> tuple[str, list[str]]:
    """Delimiter and cells of the first line."""
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            head = stream.read(1 << 20).split(b"\n", 1)[0].decode("utf-8-sig").rstrip("\r")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{file} is not readable text: {error}") from error
    if not head:
        raise DataError(f"{file} is empty or starts with an empty line")
    delimiter = max(delimiters, key=head.count)
    return delimiter, next(csv.reader([head], delimiter=delimiter))


def _read_delimited(
    file: Path,
    delimiter: str,
    names: list[str],
    *,
    use: list[str] | None = None,
    text: list[str],
    skip: int = 0,
    quote: str | bool,
) -> pa.Table:
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            return pa_csv.read_csv(
                stream,
                read_options=pa_csv.ReadOptions(
                    column_names=names, skip_rows=skip, block_size=_BLOCK_BYTES
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=delimiter, quote_char=quote, newlines_in_values=bool(quote)
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=use,
                    # Ids stay text: 007 and 7 are two users, and "NA" is a name like others.
                    column_types={name: pa.large_string() for name in text},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DataError(f"{file} cannot be read as a table: {error}") from error


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _as_text(column: pa.Array, role: str, file: Path) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        # Ids that went through a table with gaps come back as 12.0.
        whole = pc.cast(column, pa.int64(), safe=False)
        if not pc.all(pc.equal(pc.cast(whole, column.type), column)).as_py():
            raise DataError(f"{file}: the {role} column holds fractions, so it cannot be an id")
        column = whole
    try:
        return pc.cast(column, pa.large_string())
    except pa.ArrowException as error:
        raise DataError(
            f"{file}: the {role} column is {column.type}, not text or integers"
        ) from error


def time_values(time: pa.Array, source: str) -> np.ndarray[Any, Any]:
    """Times as int64 (integers, dates: microseconds) or float64; missing ones are NaN.

    Raises:
        DataError: Text that is neither a number nor a date.
    """
    if pa.types.is_dictionary(time.type):
        time = time.dictionary_decode()
    if pa.types.is_null(time.type):
        time = pc.cast(time, pa.float64())
    if pa.types.is_string(time.type) or pa.types.is_large_string(time.type):
        time = _parse_times(time, source)
    if pa.types.is_temporal(time.type):
        time = pc.cast(pc.cast(time, pa.timestamp("us"), safe=False), pa.int64())
    if pa.types.is_decimal(time.type) or pa.types.is_floating(time.type) or time.null_count:
        time = pc.cast(time, pa.float64(), safe=False)
        return np.asarray(pc.fill_null(time, float("nan")).to_numpy(zero_copy_only=False))
    try:
        return np.asarray(pc.cast(time, pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowException as error:
        raise DataError(f"{source}: the time column is {time.type}, not a time") from error


def _parse_times(time: pa.Array, source: str) -> pa.Array:
    for kind in (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return pc.cast(time, kind)
        except pa.ArrowException:
            continue
    raise DataError(
        f"{source}: the time column holds {time.drop_null()[0].as_py()!r}, which is neither a "
        "number nor an ISO date"
    )


def from_columns(
    users: Sequence[str], items: Sequence[str], times: Sequence[float] | None = None
) -> RawInteractions:
    """Interactions that are in memory already, one entry a row.

    Args:
        users: User ids.
        items: Item ids, as many.
        times: Times, as many; None where the order of the rows is the order in time.
    """
    if len(users) != len(items) or (times is not None and len(times) != len(users)):
        raise DataError("users, items and times must be equally many")
    return RawInteractions(
        user=pa.array(users, pa.large_string()),
        item=pa.array(items, pa.large_string()),
        time=None if times is None else pa.array(times),
        source="memory",
    )
