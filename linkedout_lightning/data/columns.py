"""Finding the user, item and time columns of a table that we have never seen."""

from __future__ import annotations

from collections.abc import Sequence

from linkedout_lightning.errors import DataError

ROW_ORDER = "row-order"
"""As ``time_column``: the table has no time, and its rows are in order."""

_KNOWN = {
    "user": (
        "user",
        "user_id",
        "userid",
        "uid",
        "user_idx",
        "user_name",
        "visitorid",
        "session_id",
    ),
    "item": (
        *("item", "item_id", "itemid", "iid", "item_idx", "video", "video_id", "videoid"),
        *("movie_id", "movieid", "photo_id", "product_id", "parent_asin", "asin", "news_id"),
    ),
    "time": (
        *("timestamp", "time", "ts", "timestamps", "time_stamp", "datetime", "date"),
        *("unixreviewtime", "event_time", "created_at", "time_ms"),
    ),
}


def find_columns(
    names: Sequence[str],
    *,
    where: str,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
) -> tuple[str, str, str | None]:
    """Names of the user, item and time columns; the time is None for :data:`ROW_ORDER`.

    Args:
        names: Columns of the table.
        where: The table's name, for the message.
        user: Name given by the caller, or None to guess.
        item: Likewise.
        time: Likewise, or :data:`ROW_ORDER`.

    Raises:
        DataError: A named column is not there, or none of the usual names is; the message lists
            the columns.
    """
    order = time == ROW_ORDER and ROW_ORDER not in names
    return (
        _find("user", user, names, where),
        _find("item", item, names, where),
        None if order else _find("time", time, names, where),
    )


def _find(role: str, named: str | None, names: Sequence[str], where: str) -> str:
    there = ", ".join(repr(n) for n in names)
    if named is not None:
        if named in names:
            return named
        raise DataError(f"{where} has no {role} column {named!r}; its columns are {there}")
    by_lower = {n.strip().lower(): n for n in reversed(names)}
    for candidate in _KNOWN[role]:
        if candidate in by_lower:
            return by_lower[candidate]
    hint = f", or {role}_column={ROW_ORDER!r} if the rows are in order" if role == "time" else ""
    raise DataError(
        f"cannot tell which column of {where} is the {role}: its columns are {there}; "
        f"name it with {role}_column{hint}"
    )
