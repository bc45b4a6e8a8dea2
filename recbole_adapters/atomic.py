"""Interactions of any format as RecBole's atomic file, in an order that RecBole cannot lose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from linkedout_lightning.data.interactions import Interactions
from linkedout_lightning.data.readers import read_interactions
from linkedout_lightning.errors import ConfigError, DataError

# Above this float32 no longer holds every integer.
_EXACT = 1 << 24


def write_inter(
    interactions: str | os.PathLike[str],
    data_path: str | os.PathLike[str],
    name: str,
    *,
    keep_last: int | None = None,
    min_len: int = 1,
    **reading: Any,
) -> Path:
    """Write ``<data_path>/<name>/<name>.inter`` from any table of interactions.

    RecBole keeps times as float32, in which seconds since 1970 fall together for a minute or two
    and milliseconds likewise, and rows that fall together are put in the order of the file. The
    file written here holds each time's place among all times in place of the time itself, which
    float32 holds exactly, so that RecBole's order is the true one. Columns: ``user_id:token``,
    ``item_id:token``, ``timestamp:float``, rows by user and time.

    Args:
        interactions: A table in any format of :class:`~linkedout_lightning.InteractionDataModule`.
        data_path: RecBole's ``data_path``, the folder above the dataset's own.
        name: RecBole's name of the dataset.
        keep_last: Keep so many latest rows of each user; None: all.
        min_len: Leave users with fewer rows out.
        **reading: ``format``, ``user_column``, ``item_column``, ``time_column`` as the data module
            takes them, and ``duplicates`` (``drop`` or ``keep``).

    Returns:
        The file.

    Raises:
        ConfigError: A name that cannot be a folder.
        DataError: A table that cannot be read, a token with a tab or a line break in it, or more
            than 16,777,216 different times.
    """
    if not name or Path(name).name != name:
        raise ConfigError(f"`name` is {name!r}; give the name of a folder, without a path")
    duplicates = reading.pop("duplicates", "drop")
    raw = read_interactions(interactions, **reading)
    rows = Interactions.from_raw(raw, duplicates=duplicates)
    rows = rows.prepared(min_len=min_len, keep_last=keep_last)
    for role, tokens in (("user", rows.user_ids), ("item", rows.item_ids)):
        broken = [token for token in tokens if set(token) & set("\t\n\r")]
        if broken:
            raise DataError(
                f"{interactions}: the {role} {broken[0]!r} holds a tab or a line break, which an "
                "atomic file cannot"
            )
    distinct, place = np.unique(rows.timestamp.numpy(), return_inverse=True)
    if len(distinct) > _EXACT:
        raise DataError(
            f"{interactions} has {len(distinct)} different times; RecBole's float32 tells {_EXACT} "
            "apart; round the times, or keep fewer rows by `keep_last`"
        )
    table = pa.table(
        {
            "user_id:token": pa.array(rows.user_ids).take(pa.array(rows.user_index.numpy())),
            "item_id:token": pa.array(rows.item_ids).take(pa.array(rows.item_index.numpy() - 1)),
            "timestamp:float": pa.array(place.astype(np.int64) + 1),
        }
    )
    target = Path(data_path) / name / f"{name}.inter"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    plain = pa_csv.WriteOptions(delimiter="\t", quoting_style="none", include_header=False)
    with unfinished.open("wb") as stream:
        # Arrow quotes a header whatever the style, and RecBole reads the quotes as part of a name.
        stream.write("\t".join(table.column_names).encode() + b"\n")
        pa_csv.write_csv(table, stream, plain)
    os.replace(unfinished, target)
    return target
