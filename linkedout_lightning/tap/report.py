"""What an extraction did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# What the time goes into, as far as the model has to wait for it.
_BOTTLENECKS = {
    "decode": "decoding",
    "prepare": "the processor",
    "transfer": "the transfer to the device",
    "model": "the model",
    "write": "writing",
}


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """Outcome of :func:`linkedout_lightning.tap.extract.extract`.

    Attributes:
        out: The store.
        items: Items of the table, or of this job's share of it.
        done: Items extracted now.
        by_others: Items that other jobs on the store did meanwhile.
        skipped: Items that were there already, unchanged.
        pruned: Items removed from the store, as the table no longer has them.
        failed: Items without features, now and from earlier runs.
        failed_before: Those of them that were not tried again.
        reasons: How often each reason of a failure occurs, the most frequent first.
        failures: Reason by item id, of all failed items.
        seconds: Where the time went, side by side: load (until the model was ready), wait (the
            model's, for batches), decode (waiting for frames), prepare (the processor, summed
            over its threads), transfer, model, write, total.
        tokens: Tokens that the model has read.
        store_items: Items with features in the store.
        bytes_per_item: Bytes of one item's features.
        versions: Library versions.
        notes: What a person should know.
    """

    out: str
    items: int
    done: int
    by_others: int = 0
    skipped: int
    pruned: int = 0
    failed: int
    failed_before: int
    reasons: dict[str, int]
    failures: dict[str, str] = field(repr=False)
    seconds: dict[str, float]
    tokens: int
    store_items: int
    bytes_per_item: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 if every item has features, 3 if some failed and were recorded."""
        return 3 if self.failed else 0

    @property
    def bottleneck(self) -> str | None:
        """What the job could not go faster than; ``None`` if nothing was done.

        Parts run side by side. Where the model waited for less than a fifth of the time it is the
        model, or what stands in its own thread beside it; else what it waited for.
        """
        spent = {part: self.seconds.get(part, 0.0) for part in _BOTTLENECKS}
        if not any(spent.values()):
            return None
        busy = self.seconds["total"] - self.seconds["load"]
        fed = self.seconds.get("wait", 0.0) < 0.2 * busy
        among = ("transfer", "model", "write") if fed else ("decode", "prepare")
        return max(among, key=spent.__getitem__)

    @property
    def items_per_second(self) -> float:
        """Items done or failed now, over the time after loading."""
        tried = self.done + self.failed - self.failed_before
        return tried / max(1e-9, self.seconds["total"] - self.seconds["load"])

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return asdict(self) | {
            "exit_code": self.exit_code,
            "bottleneck": self.bottleneck,
            "items_per_second": round(self.items_per_second, 3),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The same for people."""
        earlier = "before, or by other jobs" if self.by_others else "before"
        lines = [
            f"{self.out}: {self.store_items} items, {self.bytes_per_item} bytes each",
            f"  extracted now   {self.done}",
            f"  already there   {self.skipped}",
            f"  failed          {self.failed}"
            + (f" ({self.failed_before} of them {earlier})" if self.failed_before else ""),
        ]
        lines += [f"    {count:>6} x {reason}" for reason, count in self.reasons.items()]
        if self.failed_before:
            lines.append("    set retry_failed to try those again")
        if self.pruned:
            lines.append(f"  removed         {self.pruned}")
        if self.by_others:
            lines.insert(2, f"  by other jobs   {self.by_others}")
        if self.bottleneck is not None:
            total = max(1e-9, self.seconds["total"])
            busy = max(1e-9, total - self.seconds["load"])
            shares = ", ".join(
                f"{part} {self.seconds.get(part, 0.0) / busy:.0%}"
                for part in ("wait", *_BOTTLENECKS)
            )
            lines += [
                f"  {total:.1f} s, {self.seconds['load']:.1f} of them to load; "
                f"{self.items_per_second:.2f} items/s, {self.tokens / busy:.0f} tokens/s",
                f"  bottleneck      {_BOTTLENECKS[self.bottleneck]} (side by side: {shares})",
            ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
