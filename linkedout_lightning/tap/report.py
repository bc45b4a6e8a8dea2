"""What an extraction did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_PARTS = {
    "decode_wait": "waiting for decoded frames",
    "prepare": "the processor",
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
        skipped: Items that were there already, unchanged.
        failed: Items without features, now and from earlier runs.
        failed_before: Those of them that were not tried again.
        reasons: How often each reason of a failure occurs, the most frequent first.
        failures: Reason by item id, of all failed items.
        seconds: Where the time went: load, decode_wait, prepare, model, write, total.
        tokens: Tokens that the model has read.
        store_items: Items with features in the store.
        bytes_per_item: Bytes of one item's features.
        versions: Library versions.
        notes: What a person should know.
    """

    out: str
    items: int
    done: int
    skipped: int
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
        """The part that took most of the time; ``None`` if nothing was done."""
        spent = {part: self.seconds.get(part, 0.0) for part in _PARTS}
        return max(spent, key=spent.__getitem__) if any(spent.values()) else None

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
        lines = [
            f"{self.out}: {self.store_items} items, {self.bytes_per_item} bytes each",
            f"  extracted now   {self.done}",
            f"  already there   {self.skipped}",
            f"  failed          {self.failed}"
            + (f" ({self.failed_before} of them before)" if self.failed_before else ""),
        ]
        lines += [f"    {count:>6} x {reason}" for reason, count in self.reasons.items()]
        if self.failed_before:
            lines.append("    set retry_failed to try those again")
        if self.bottleneck is not None:
            total = max(1e-9, self.seconds["total"])
            shares = ", ".join(
                f"{name} {self.seconds[part] / total:.0%}"
                for part, name in {"load": "loading", **_PARTS}.items()
            )
            lines.append(
                f"  {self.seconds['total']:.1f} s, {self.items_per_second:.2f} items/s, "
                f"{self.tokens / total:.0f} tokens/s; {shares}"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
