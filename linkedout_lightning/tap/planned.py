"""What an extraction would take, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from linkedout_lightning.tap.forecast import FORMULA
from linkedout_lightning.wording import in_bytes, in_time

_PARTS = {
    "decode": "decoding",
    "prepare": "the processor",
    "model": "the model",
    "write": "writing",
    "cores": "the machine's cores",
    "nothing": "nothing",
}


@dataclass(frozen=True, kw_only=True)
class ExtractPlan:
    """Outcome of :func:`linkedout_lightning.tap.extract.extract` with ``plan``.

    Attributes:
        out: The store, which was only looked at.
        device: Where the model runs.
        items: Items of the table, or of this job's share of it.
        todo: Those that would be extracted.
        skipped: Those that are in the store already, unchanged.
        sampled: Items that were run.
        failed: Those of them that yielded nothing.
        reasons: How often each reason of that occurs, the most frequent first.
        seconds: How long the whole would take, loading included.
        interval: The 95 % interval of that, over the choice of the sample.
        loading: Seconds until the model was ready.
        starting: Seconds until the processes that decode were at work.
        parts: Seconds of each part if it were alone: decode, prepare, model, write, cores.
        per_item: Seconds of an item on one worker, one thread and the model: decode, prepare,
            model, write.
        bottleneck: The part that the others will wait for.
        workers: Processes that decode.
        threads: Threads that run the processor.
        cores: Cores of the machine that this process may use.
        model_cores: How many of them the model keeps busy.
        batch: Items of a batch, on average.
        memory: Bytes at the peak of the sample: of the device, or of this process on a CPU.
        memory_by_formula: The same by the formula of the costs (weights and one batch).
        store_now: Bytes of the store.
        store_end: Bytes of the store when all is done.
        bytes_per_item: Bytes of an item's features and mask.
        tokens: Tokens of an item: mean and 95th percentile.
        flops_per_item: Floating point operations of the model's products, by the formula.
        peak_flops: Operations a second that this device reaches on a square product.
        notes: What a person should know.
    """

    out: str
    device: str
    items: int
    todo: int
    skipped: int
    sampled: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float
    interval: tuple[float, float]
    loading: float
    starting: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    per_item: dict[str, float] = field(default_factory=dict)
    bottleneck: str
    workers: int
    threads: int
    cores: int
    model_cores: float
    batch: float
    memory: int
    memory_by_formula: int
    store_now: int
    store_end: int
    bytes_per_item: int
    tokens: tuple[float, float]
    flops_per_item: float
    peak_flops: float
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: nothing was to be done but to look."""
        return 0

    @property
    def items_per_second(self) -> float:
        """Items over the time after loading."""
        return self.todo / max(1e-9, self.seconds - self.loading)

    @property
    def floor_seconds(self) -> float:
        """Seconds of an item's products at the rate of a square product."""
        return self.flops_per_item / self.peak_flops if self.peak_flops else 0.0

    @property
    def share_of_peak(self) -> float:
        """The part of that rate that the model reached on the sample."""
        model = self.per_item.get("model", 0.0)
        return self.floor_seconds / model if model else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return asdict(self) | {
            "interval": list(self.interval),
            "tokens": dict(zip(("mean", "p95"), self.tokens, strict=True)),
            "items_per_second": round(self.items_per_second, 4),
            "floor_seconds_per_item": self.floor_seconds,
            "share_of_peak": round(self.share_of_peak, 4),
            "formula": FORMULA,
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }

    def summary(self) -> str:
        """The same for people."""
        lines = [
            f"{self.out}: a plan, nothing was written",
            f"  items        {self.items}, {self.skipped} of them there already, {self.todo} to do",
        ]
        if self.sampled:
            lines += self._measured()
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _measured(self) -> list[str]:
        low, high = map(in_time, self.interval)
        mean, p95 = self.tokens
        parts = ", ".join(f"{_PARTS[name]} {in_time(spent)}" for name, spent in self.parts.items())
        return [
            f"  sample       {self.sampled} items, {self.failed} of them failed",
            *(f"    {count:>6} x {reason}" for reason, count in self.reasons.items()),
            f"  speed        {self.items_per_second:.2f} items/s",
            f"  time         {in_time(self.seconds)} (95 %: {low} to {high})",
            f"  bottleneck   {_PARTS[self.bottleneck]}; each part alone: {parts}",
            f"  memory       {in_bytes(self.memory)} at the peak on {self.device} "
            f"({in_bytes(self.memory_by_formula)} by the formula)",
            f"  store        {in_bytes(self.store_now)} now, {in_bytes(self.store_end)} at the "
            f"end, {self.bytes_per_item} bytes of features an item",
            f"  tokens       {mean:.0f} an item, 95 % have at most {p95:.0f}",
            f"  model        {self.flops_per_item / 1e9:.4g} GFLOP an item, at least "
            f"{self.floor_seconds:.3g} s at the {self.peak_flops / 1e9:.0f} GFLOP/s of a square "
            f"product here; {self.per_item['model']:.3g} s measured ({self.share_of_peak:.0%})",
            "  with         "
            + ", ".join(
                f"{name} {self.per_item[part]:.3g}"
                for name, part in (("d", "decode"), ("p", "prepare"), ("m", "model"))
            )
            + f" s an item, {self.workers} workers, {self.threads} threads, {self.cores} cores, "
            f"c {self.model_cores:.1f}, loading {in_time(self.loading)}, start of the workers "
            f"{in_time(self.starting)}",
            *(f"  {line}" for line in FORMULA.splitlines()),
        ]
