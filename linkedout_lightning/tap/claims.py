"""Who does what, agreed between independent processes through a table beside the features.

Several jobs may fill one store without knowing of each other: a worker claims items before it does
them, and others leave them alone. A claim is one appended row of a small Lance table; Lance orders
concurrent appends on any file system or object store that it writes to, and of two claims to one
item the first in that order holds. No lock is held, nobody waits for anybody, and no clocks are
compared: a worker that has shown no sign of life for its lease, measured by whoever looks, is taken
for dead and its items are free. One that died on the looker's own machine is noticed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa

from linkedout_lightning.store.faults import as_store_errors
from linkedout_lightning.store.index import scan

_SCHEMA = pa.schema(
    [
        ("action", pa.string()),  # take, keep, done, drop
        ("claim", pa.string()),
        ("worker", pa.string()),
        ("lease", pa.float64()),
        ("time", pa.float64()),  # seconds since 1970, for tidying up alone
        ("keys", pa.list_(pa.string())),
    ]
)
_COLUMNS = _SCHEMA.names
_MANY_PIECES = 256
# Longer than any worker goes without reading the claims, whatever the clocks say.
_FORGET_SECONDS = 2 * 86_400.0
_FOLDER = "_claims"
# Workers of this process that have ended: the process lives on, as in a notebook, and where the
# disk was full they could not write that they give up what they held.
_ended_here: set[str] = set()


@dataclass
class Claim:
    """Some items that a worker has said it will do.

    Attributes:
        claim: Its name.
        worker: Who, as JSON.
        keys: What.
        order: Its place among all claims.
        lease: Seconds without a sign of life after which its worker counts as dead.
        ended: It is done or given up.
    """

    claim: str
    worker: str
    keys: tuple[str, ...]
    order: int
    lease: float
    ended: bool = False


@dataclass
class _Seen:
    """What this process knows of the table."""

    claims: dict[str, Claim] = field(default_factory=dict)
    holders: dict[str, list[Claim]] = field(default_factory=dict)
    signs: dict[str, float] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


class Claims:
    """The claims on one store's items.

    Safe to use from several threads. What :meth:`newly_done` names was finished after this object
    was made: make it before reading what the store holds, and nothing falls between.

    Args:
        store: Path of the feature store.
        lease: Seconds after which others may take this worker for dead, if it shows no sign.
        clock: Seconds that only grow.

    Raises:
        StoreError: The table cannot be read or written.
    """

    def __init__(
        self, store: str, *, lease: float = 300.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = f"{store.rstrip('/')}/{_FOLDER}"
        self.worker = json.dumps(_identity(), sort_keys=True)
        self._lease, self._clock = lease, clock
        self._lock = threading.RLock()
        self._seen = _Seen()
        self._fragments: list[int] = []
        self._highest = -1
        self._shown = clock()
        with as_store_errors("open the claims on", self.path):
            self._dataset = _open(self.path)
            self._tidy()
            self._read()
        self._seen.done.clear()

    def newly_done(self) -> set[str]:
        """Keys that other workers have finished since this was asked last, or since the start."""
        with self._lock:
            done, self._seen.done = self._seen.done, set()
            return done

    def refresh(self) -> None:
        """See what others have written."""
        with self._lock, as_store_errors("read the claims on", self.path):
            if self._dataset.latest_version != self._dataset.version:
                self._dataset.checkout_latest()
                self._read()

    def held(self) -> dict[str, str]:
        """Keys that living workers hold, this one's too, and the name of each holder."""
        with self._lock:
            living = {worker: self._living(worker) for worker in self._workers()}
            return {
                key: _name(claims[0].worker)
                for key, found in self._seen.holders.items()
                if (claims := [c for c in found if living[c.worker]])
            }

    def take(self, keys: Sequence[str]) -> Claim | None:
        """Claim all of some keys, or none of them.

        Args:
            keys: What to claim.

        Returns:
            The claim, or None if somebody else was first with one of them.
        """
        with self._lock:
            name = uuid.uuid4().hex
            self._append("take", claim=name, keys=keys)
            mine = self._seen.claims[name]
            for key in mine.keys:
                for other in self._seen.holders.get(key, ()):
                    if other.order < mine.order and self._living(other.worker):
                        self.end(mine, done=False)
                        return None
            return mine

    def is_inherited(self, claim: Claim) -> bool:
        """Whether a claim covers what a dead worker held, and may have done in part."""
        with self._lock:
            return any(len(self._seen.holders[key]) > 1 for key in claim.keys)

    def end(self, claim: Claim, *, done: bool) -> None:
        """Say that a claim's items are in the store, or that they are given up."""
        with self._lock:
            if not claim.ended:
                self._append("done" if done else "drop", claim=claim.claim, keys=())
                self._tidy()

    def show_life(self) -> None:
        """Keep the claims of this worker; to be called often, it rarely writes."""
        with self._lock:
            if self._clock() - self._shown > self._lease / 3 and self._own():
                self._append("keep", claim="", keys=())

    def drop_all(self) -> None:
        """Give up whatever this worker still holds."""
        with self._lock:
            for claim in self._own():
                self.end(claim, done=False)

    def _own(self) -> list[Claim]:
        return [c for c in self._seen.claims.values() if c.worker == self.worker]

    def _workers(self) -> set[str]:
        return {claim.worker for claim in self._seen.claims.values()}

    def _living(self, worker: str) -> bool:
        if worker == self.worker:
            return True
        if worker in _ended_here or _is_dead_here(worker):
            return False
        lease = max(c.lease for c in self._seen.claims.values() if c.worker == worker)
        return self._clock() - self._seen.signs[worker] <= lease

    def _append(self, action: str, *, claim: str, keys: Sequence[str]) -> None:
        import lance

        row = {
            "action": action,
            "claim": claim,
            "worker": self.worker,
            "lease": self._lease,
            "time": time.time(),
            "keys": list(keys),
        }
        with as_store_errors("write the claims on", self.path):
            table = pa.Table.from_pylist([row], schema=_SCHEMA)
            self._dataset = lance.write_dataset(table, self._dataset, mode="append")
            self._read()
        self._shown = self._clock()

    def _read(self) -> None:
        """Take in the rows that are new, in the order in which they were committed."""
        fragments = self._dataset.get_fragments()
        names = [f.fragment_id for f in fragments]
        # Tidying merges pieces; rows keep their numbers, so what was read before is told apart.
        known = len(self._fragments) if names[: len(self._fragments)] == self._fragments else 0
        self._fragments = names
        if not fragments[known:]:
            return
        rows = scan(self._dataset, _COLUMNS, fragments=fragments[known:]).sort_by("_rowid")
        for row in rows.to_pylist():
            if row["_rowid"] > self._highest:
                self._highest = row["_rowid"]
                self._take_in(row)

    def _take_in(self, row: dict[str, Any]) -> None:
        seen, worker = self._seen, row["worker"]
        seen.signs[worker] = self._clock()
        if row["action"] == "take":
            keys = tuple(row["keys"])
            claim = Claim(row["claim"], worker, keys, row["_rowid"], row["lease"])
            seen.claims[claim.claim] = claim
            for key in keys:
                seen.holders.setdefault(key, []).append(claim)
        elif (ended := seen.claims.pop(row["claim"], None)) is not None:
            ended.ended = True
            for key in ended.keys:
                seen.holders[key].remove(ended)
                if not seen.holders[key]:
                    del seen.holders[key]
            if row["action"] == "done" and worker != self.worker:
                seen.done.update(ended.keys)

    def _tidy(self) -> None:
        """Merge pieces, and forget the claims that ended long ago."""
        if len(self._dataset.get_fragments()) <= _MANY_PIECES:
            return
        rows = scan(self._dataset, ["action", "claim", "time"]).to_pylist()
        old = time.time() - _FORGET_SECONDS
        ended = {r["claim"] for r in rows if r["action"] in ("done", "drop") and r["time"] < old}
        gone = [r["_rowid"] for r in rows if r["claim"] in ended]
        gone += [r["_rowid"] for r in rows if r["action"] == "keep" and r["time"] < old]
        # Another worker may be at the same: then it is done, or will be the next time.
        with contextlib.suppress(OSError, RuntimeError):
            for start in range(0, len(gone), 1000):
                wanted = ", ".join(map(str, gone[start : start + 1000]))
                self._dataset.delete(f"_rowid IN ({wanted})")
            self._dataset.optimize.compact_files()
            self._dataset.checkout_latest()
            self._dataset.cleanup_old_versions(older_than=timedelta(minutes=10))
        self._dataset.checkout_latest()


@contextlib.contextmanager
def claims_on(store: str, *, lease: float) -> Iterator[Claims]:
    """Claims that are given up at the end of the block, whichever way it is left."""
    claims = Claims(store, lease=lease)
    try:
        yield claims
    finally:
        # The disk may be full by now; then the lease runs out in its time.
        with contextlib.suppress(Exception):
            claims.drop_all()
        _ended_here.add(claims.worker)


def _open(path: str) -> Any:
    import lance

    try:
        return lance.dataset(path)
    except (OSError, ValueError) as error:
        if "not found" not in str(error).lower():
            raise
    try:
        return lance.write_dataset(
            _SCHEMA.empty_table(), path, schema=_SCHEMA, mode="create", enable_stable_row_ids=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        if "already exists" not in str(error).lower():
            raise
        return lance.dataset(path)


def _identity() -> dict[str, Any]:
    """This process, in a way that tells whether another one can look whether it lives."""
    return {
        "host": socket.gethostname(),
        "place": _place(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "id": uuid.uuid4().hex[:8],
    }


def _place() -> str | None:
    """Name of this boot of this machine, and of the container's view of processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_dead_here(worker: str) -> bool:
    """Whether a worker of this very machine has ended; False where that cannot be known."""
    who = json.loads(worker)
    if who["place"] is None or who["place"] != _place():
        return False
    return bool(_started(who["pid"]) != who["started"])


def _name(worker: str) -> str:
    who = json.loads(worker)
    return f"{who['host']}, process {who['pid']}"
