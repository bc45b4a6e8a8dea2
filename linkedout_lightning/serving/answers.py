"""What a ranker answers, from one snapshot.

``B`` users, ``M`` inputs, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, UnknownItemError
from linkedout_lightning.serving.snapshot import Snapshot


@dataclass(frozen=True)
class Recommendations:
    """Answers, one list a user (or, of :meth:`Ranker.similar`, an item).

    Args:
        ids: Item ids, the best first; fewer than asked for where no more are left.
        scores: Their scores: dot products, cosines for :meth:`Ranker.similar`, the share of the
            training interactions where ``fallback`` is set.
        unknown: Ids of each history that the ranker does not have; they were passed over.
        fallback: Whether a user had no known item, so that popular items were given.
        fingerprint: Of the bundle that answered; a ranker may be swapped to another at any time.
    """

    ids: list[list[str]]
    scores: list[list[float]]
    unknown: list[list[str]] = field(default_factory=list)
    fallback: list[bool] = field(default_factory=list)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.ids)


def recommend(
    snapshot: Snapshot,
    histories: Sequence[Sequence[str]],
    k: int,
    *,
    exclude_seen: bool,
    candidates: Sequence[str] | None,
    deny: Sequence[str],
) -> Recommendations:
    """As :meth:`Ranker.recommend` has it."""
    check_k(k)
    check_histories(histories)
    rows, unknown = _rows_of(snapshot, histories)
    banned = _sorted(snapshot, deny)
    chosen = None if candidates is None else _sorted(snapshot, candidates)
    if chosen is not None and len(banned):
        chosen = chosen[~torch.isin(chosen, banned)]
    active = [user for user, known in enumerate(rows) if known]
    ids: list[list[str]] = [[] for _ in rows]
    scores: list[list[float]] = [[] for _ in rows]
    if active:
        histories_of = [rows[user] for user in active]
        seen = [set(known) if exclude_seen else set() for known in histories_of]
        with torch.inference_mode():
            states = encode_histories(snapshot, histories_of)
            # As many more as a history can take away are fetched; what is left is exact.
            found, values = _ranked(
                snapshot, states, k + max(map(len, seen)), chosen=chosen, banned=banned
            )
        for user, row, value, mine in zip(active, found, values, seen, strict=True):
            best = _first(row, value, k, without=mine)
            ids[user] = [snapshot.id_of(r) for r, _ in best]
            scores[user] = [v for _, v in best]
    fallback = [not known for known in rows]
    if any(fallback):
        popular, shares = _popular(snapshot, k, chosen, banned)
        for user, alone in enumerate(fallback):
            if alone:
                ids[user], scores[user] = list(popular), list(shares)
    return Recommendations(ids, scores, unknown, fallback, snapshot.fingerprint)


def similar(
    snapshot: Snapshot, item_ids: Sequence[str], k: int, *, layer: int | None
) -> Recommendations:
    """As :meth:`Ranker.similar` has it; ``layer`` is a place on the L axis."""
    check_k(k)
    check_histories([item_ids])
    rows = [known_row(snapshot, item) for item in item_ids]
    if not rows:
        return Recommendations([], [], fingerprint=snapshot.fingerprint)
    with torch.inference_mode():
        values, found = snapshot.nearest(_directions(snapshot, rows, layer), k + 1, layer=layer)
    ids, scores = [], []
    for own, row, value in zip(rows, found.tolist(), values.tolist(), strict=True):
        best = _first(row, value, k, without={own})
        ids.append([snapshot.id_of(r) for r, _ in best])
        scores.append([v for _, v in best])
    return Recommendations(ids, scores, [[] for _ in ids], [False] * len(ids), snapshot.fingerprint)


def check_histories(histories: object) -> None:
    """Refuse what is no list of lists of ids.

    Raises:
        DataError: It is none; the message names the first wrong part.
    """
    if isinstance(histories, str) or not isinstance(histories, Sequence):
        raise DataError(f"`histories` is {histories!r}; give a list with a list of ids a user")
    for user, history in enumerate(histories):
        if isinstance(history, str) or not isinstance(history, Sequence):
            raise DataError(
                f"`histories` holds {history!r} at place {user}; give a list of item ids for each "
                "user"
            )
        for item in history:
            if not isinstance(item, str):
                raise DataError(
                    f"history {user} holds {item!r}, a {type(item).__name__}; item ids are texts"
                )


def check_k(k: object) -> None:
    """Refuse what is no number of answers.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(f"`k` is {k!r}; give a whole number from 1")


def known_row(snapshot: Snapshot, item_id: str) -> int:
    """Row of an item.

    Raises:
        UnknownItemError: There is no such item.
    """
    row = snapshot.row(item_id)
    if row is None:
        raise UnknownItemError([item_id], "the ranker's catalogue")
    return row


def _rows_of(
    snapshot: Snapshot, histories: Sequence[Sequence[str]]
) -> tuple[list[list[int]], list[list[str]]]:
    rows: list[list[int]] = []
    unknown: list[list[str]] = []
    for history in histories:
        found = [(item, snapshot.row(item)) for item in history]
        rows.append([row for _, row in found if row is not None])
        unknown.append([item for item, row in found if row is None])
    return rows, unknown


def _sorted(snapshot: Snapshot, item_ids: Sequence[str]) -> Tensor:
    check_histories([item_ids])
    rows = {row for item in item_ids if (row := snapshot.row(item)) is not None}
    return torch.tensor(sorted(rows), dtype=torch.long)


def encode_histories(snapshot: Snapshot, rows: list[list[int]]) -> Tensor:
    """Known rows of each user to states ``(B, H)``."""
    inputs = [known[-snapshot.max_len :] for known in rows]
    width = max(map(len, inputs))
    flat = torch.tensor([row for known in inputs for row in known])
    lengths = torch.tensor([len(known) for known in inputs])
    mask = torch.arange(width) >= (width - lengths)[:, None]  # (B, M), left-padded
    taken = snapshot.take(flat)
    vectors = taken.new_zeros(*mask.shape, taken.shape[1])
    vectors[mask] = taken
    return snapshot.encode(vectors, mask)


def _popular(
    snapshot: Snapshot, k: int, chosen: Tensor | None, banned: Tensor
) -> tuple[list[str], list[float]]:
    """What a user without a known item gets; nothing where the bundle does not know it."""
    base = snapshot.base
    if base.popular is None or base.popularity is None:
        return [], []
    hidden = {*banned.tolist(), *snapshot.removed.tolist()}
    only = None if chosen is None else set(chosen.tolist())
    ids: list[str] = []
    shares: list[float] = []
    enough = base.popular if only is not None else base.popular[: k + len(hidden)]
    for row in enough.tolist():
        if row not in hidden and (only is None or row in only):
            ids.append(base.ids[row])
            shares.append(float(base.popularity[row]))
            if len(ids) == k:
                break
    return ids, shares


def _ranked(
    snapshot: Snapshot, states: Tensor, fetch: int, *, chosen: Tensor | None, banned: Tensor
) -> tuple[list[list[int]], list[list[float]]]:
    """Rows and scores, descending, of all items or of those chosen."""
    if chosen is None:
        values, found = snapshot.search(states, fetch, banned=banned)
    else:
        table = snapshot.take(chosen, candidates=True)
        values, order = (states @ table.T).sort(dim=1, descending=True, stable=True)
        found = chosen[order]
    return found.tolist(), values.tolist()


def _first(
    rows: list[int], scores: list[float], k: int, *, without: set[int]
) -> list[tuple[int, float]]:
    pairs = zip(rows, scores, strict=True)
    return [(r, v) for r, v in pairs if r not in without and v > -torch.inf][:k]


def _directions(snapshot: Snapshot, rows: list[int], layer: int | None) -> Tensor:
    """Vectors of rows, brought to length one."""
    if layer is None:
        vectors = snapshot.take(torch.tensor(rows), candidates=True)
    else:
        seen = []
        for items, row in map(snapshot.place, rows):
            assert items.experts is not None
            seen.append(items.experts[row, layer].float())
        vectors = torch.stack(seen)
    return torch.nn.functional.normalize(vectors, dim=1)
