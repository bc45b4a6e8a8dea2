"""Removing what a catalogue no longer has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from linkedout_lightning.errors import DataError
from linkedout_lightning.tap.items import Item

if TYPE_CHECKING:
    from linkedout_lightning.store import FeatureStore

_MOST_SHARE = 0.5


def gone_from(items: Sequence[Item], store: FeatureStore) -> list[str]:
    """Ids of a store that a table or folder no longer holds, with features or as failures.

    Args:
        items: All items that are to stay.
        store: The store.

    Raises:
        DataError: It would be more than half of the store: then it is rather the wrong table.
    """
    gone = store.not_among(item.item_id for item in items)
    known = len(store.not_among(()))
    if len(gone) > _MOST_SHARE * known:
        raise DataError(
            f"`prune` would remove {len(gone)} of the {known} items of {store.path!r}, which "
            "looks like another catalogue; nothing was removed; if it is meant, use "
            "`linkedout delete`"
        )
    return gone
