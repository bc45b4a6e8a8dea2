"""Items by a part of their id or title."""

from __future__ import annotations

from itertools import islice

from linkedout_lightning.errors import UnknownItemError
from linkedout_lightning.serving.ranker import Ranker


class Listing:
    """Searches a catalogue's ids and titles; the titles are read once for each of its states."""

    def __init__(self) -> None:
        self._titles: dict[str, tuple[list[str], dict[str, str]]] = {}

    def find(
        self, name: str, ranker: Ranker, query: str, *, limit: int, offset: int
    ) -> tuple[int, list[tuple[str, str | None]]]:
        """Items whose id or title has the query in it, in any case of letters.

        Args:
            name: Of the model.
            ranker: The model.
            query: A part of an id or a title; empty: all items.
            limit: Most items.
            offset: How many to pass over.

        Returns:
            How many fit, and id and title of those asked for.
        """
        ids, query = ranker.item_ids, query.casefold()
        if not query:
            shown = ids[offset : offset + limit]
            return len(ids), [(item, _title(ranker, item)) for item in shown]
        titles = self._of(name, ranker, ids)
        fitting = [i for i in ids if query in i.casefold() or query in titles.get(i, "").casefold()]
        shown = list(islice(fitting, offset, offset + limit))
        return len(fitting), [(item, titles.get(item)) for item in shown]

    def _of(self, name: str, ranker: Ranker, ids: list[str]) -> dict[str, str]:
        known = self._titles.get(name)
        if known is None or known[0] != ids:
            known = self._titles[name] = ids, ranker.column("title")
        return known[1]


def _title(ranker: Ranker, item_id: str) -> str | None:
    try:
        return ranker.columns(item_id).get("title")
    except UnknownItemError:  # it was removed a moment ago
        return None
