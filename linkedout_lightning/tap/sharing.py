"""The units of work of one extraction, shared with whoever else is at the same store."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from linkedout_lightning.tap.claims import Claim, Claims
from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.units import Unit

_MOST_ITEMS = 512
_SHORT_SECONDS, _LONG_SECONDS = 5.0, 30.0
_POLL_SECONDS = 0.25, 2.0


class UnitSource:
    """Hands out units that nobody else is at.

    Use it in rounds: take from :meth:`take_free` until it ends, commit, call :meth:`complete`, then
    :meth:`wait`; as long as that says that units are left, begin again. A round never waits for
    others, as they might be waiting for what this worker has not committed.

    Args:
        units: All units, in order.
        claims: What workers have claimed.
        columns: Columns of an item that are used: with other texts it is other work.
        still_todo: Looks into the store which of some items are not there yet. It is asked where a
            worker has died, as that one may have done a part of what it held.

    Attributes:
        by_others: How many items others have done meanwhile.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        claims: Claims,
        *,
        columns: Sequence[str],
        still_todo: Callable[[Sequence[Item]], Sequence[Item]],
    ) -> None:
        self.by_others = 0
        self._still_todo = still_todo
        self._claims = claims
        self._pending = {unit.number: unit for unit in units}
        self._keys = {
            unit.number: {_key(item, columns): item for item in unit.items} for unit in units
        }
        self._of_key = {key: number for number, keys in self._keys.items() for key in keys}
        self._taken: dict[int, Claim] = {}
        self._lock = threading.Lock()
        self._count = 1
        self._asked = time.monotonic()

    def __len__(self) -> int:
        return len(self._pending)

    def take_free(self, *, watch: bool) -> Iterator[Unit]:
        """Claim and yield units until none is free.

        Args:
            watch: Those with files to decode, or the others.
        """
        while True:
            self._claims.refresh()
            self._note_others()
            free = self._free(watch=watch, most=self._pace())
            if not free:
                return
            claim = self._claims.take([key for unit in free for key in self._keys[unit.number]])
            if claim is None:
                time.sleep(random.uniform(0, 0.05))
                continue
            with self._lock:
                self._taken |= {unit.number: claim for unit in free}
            yield from self._not_done(free) if self._claims.is_inherited(claim) else free

    def _not_done(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Units of which something is left; those in the store are completed."""
        items = [item for unit in units for item in unit.items]
        left = {item.item_id for item in self._still_todo(items)}
        self.by_others += len(items) - len(left)
        for unit in units:
            items_left = tuple(item for item in unit.items if item.item_id in left)
            if items_left:
                yield Unit(unit.number, items_left, unit.watch)
            else:
                self.complete([unit.number])

    def complete(self, numbers: Sequence[int]) -> None:
        """Say that units are in the store."""
        with self._lock:
            ended = [self._taken.pop(number) for number in numbers]
            still = {claim.claim for claim in self._taken.values()}
            for number in numbers:
                self._forget(number)
        for claim in {claim.claim: claim for claim in ended}.values():
            if claim.claim not in still:
                self._claims.end(claim, done=True)

    def wait(self, tell: Callable[[dict[str, int]], None] | None = None) -> bool:
        """Wait until a unit is free.

        Args:
            tell: Called while there is nothing to do, with who has how many of the items left.

        Returns:
            False if none is left: everything is in the store.
        """
        pause = _POLL_SECONDS[0]
        while self._pending:
            self._claims.refresh()
            self._note_others()
            if self._free(watch=True, most=1) or self._free(watch=False, most=1):
                return True
            if self._pending:
                if tell is not None:
                    tell(self.holders())
                time.sleep(pause)
                pause = min(_POLL_SECONDS[1], 1.5 * pause)
        return False

    def holders(self) -> dict[str, int]:
        """Who has how many of the items that are left."""
        counts: dict[str, int] = {}
        for key, who in self._claims.held().items():
            if key in self._of_key:
                counts[who] = counts.get(who, 0) + 1
        return counts

    def _free(self, *, watch: bool, most: int) -> list[Unit]:
        held = self._claims.held()
        free: list[Unit] = []
        with self._lock:
            for number, unit in self._pending.items():
                if len(free) == most:
                    break
                taken = number in self._taken or unit.watch != watch
                if not taken and not any(key in held for key in self._keys[number]):
                    items = tuple(self._keys[number].values())
                    free.append(Unit(number, items, unit.watch))
        return free

    def _note_others(self) -> None:
        with self._lock:
            for key in self._claims.newly_done():
                number = self._of_key.get(key)
                if number is None or number in self._taken:
                    continue
                del self._of_key[key]
                self.by_others += 1
                del self._keys[number][key]
                if not self._keys[number]:
                    self._forget(number)

    def _forget(self, number: int) -> None:
        self._pending.pop(number, None)
        for key in self._keys.pop(number, ()):
            self._of_key.pop(key, None)

    def _pace(self) -> int:
        """How many units to claim: some seconds of work, but not the rest that others could do."""
        now = time.monotonic()
        spent, self._asked = now - self._asked, now
        if spent < _SHORT_SECONDS:
            self._count *= 2
        elif spent > _LONG_SECONDS:
            self._count //= 2
        with self._lock:
            left = len(self._pending) - len(self._taken)
            largest = max((len(unit.items) for unit in self._pending.values()), default=1)
        self._count = max(1, min(self._count, left // 4, _MOST_ITEMS // max(1, largest)))
        return self._count


def _key(item: Item, columns: Sequence[str]) -> str:
    texts = "\0".join(item.columns.get(name) or "" for name in columns)
    return f"{item.item_id} {hashlib.blake2b(texts.encode(), digest_size=8).hexdigest()}"
