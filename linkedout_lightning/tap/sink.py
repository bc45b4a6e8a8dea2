"""From a tap to a store: what the features are, and the way of a batch into the table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from linkedout_lightning.errors import StoreError
from linkedout_lightning.store import FeatureStore, StoreSpec
from linkedout_lightning.tap.types import TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler

# A store likes few large appends; a killed job loses at most what has not been appended.
_ROWS, _BYTES, _SECONDS = 512, 256 * 2**20, 60.0
_MANY_PIECES = 128
_OWN_FIELDS = ("model", "revision", "layers", "groups", "prompt", "views")


def store_spec(
    tap: VideoLLMTap, *, sampler: FrameSampler | None = None, dtype: str = "float16"
) -> StoreSpec:
    """Say what a tap's features are, for :meth:`FeatureStore.create`.

    Args:
        tap: The tap.
        sampler: Where its frames come from; ``None`` for text alone.
        dtype: How the store keeps numbers.
    """
    seen = dict(tap.fingerprint())
    versions = {"torch": str(torch.__version__), "transformers": str(seen.pop("transformers", ""))}
    frames: dict[str, Any] = (
        {} if sampler is None else dict(sampler.fingerprint(images="cover" in tap.sources))
    )
    versions |= frames.pop("versions", {})
    return StoreSpec(
        model=str(seen["model"]),
        revision=str(seen["revision"]),
        layers=tuple(tap.layers),
        slots=tuple(tap.slots),
        groups=tuple(seen["groups"]),
        hidden_size=tap.hidden_size,
        prompt=str(seen["prompt"]),
        views=dict(seen.get("views", {})),
        sampler=frames,
        dtype=dtype,
        versions=versions,
        extra={key: value for key, value in seen.items() if key not in _OWN_FIELDS},
    )


class StoreSink:
    """Gathers outputs and failures and appends them in few atomic commits.

    What one call of :meth:`add` takes becomes visible at once, features and failures together: a
    killed job leaves the whole of it or nothing. Used as a context manager it appends what is
    waiting at the end, also when the user interrupts.

    Args:
        store: Where to. In the background it is used from another thread: leave it alone until
            the sink is closed.
        fingerprints: What each item was made from, by id.
        rows: Append when this many items are waiting; by default 512.
        background: Append while the caller goes on; an error of one append is raised by the next
            call.

    Attributes:
        done: How many items got features.
        failures: Reason by item that got none.
        seconds: Time spent writing.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        fingerprints: Mapping[str, str] | None = None,
        rows: int | None = None,
        background: bool = False,
    ) -> None:
        self.store = store
        self.done = 0
        self.failures: dict[str, str] = {}
        self.seconds = 0.0
        self._fingerprints = {} if fingerprints is None else fingerprints
        self._rows = rows or _ROWS
        self._waiting: list[TapOutput] = []
        self._failed: dict[str, str] = {}
        self._then: list[Callable[[], None]] = []
        self._flushed = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "store") if background else None
        self._under_way: Future[None] | None = None

    def add(
        self,
        output: TapOutput | None,
        failures: Mapping[str, str] | None = None,
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Take what belongs together.

        Args:
            output: Features; rows without a token, with NaN or out of the store's range become
                failures.
            failures: Reason by other item that yielded nothing.
            then: Called when all of it is in the store.
        """
        failed = dict(failures or {})
        if output is not None and len(output):
            fitting, unfit = self._sift(output)
            failed |= unfit
            self.done += len(fitting)
            self._waiting.append(fitting)
        self._failed |= failed
        self.failures |= failed
        if then is not None:
            self._then.append(then)
        count = sum(map(len, self._waiting)) + len(self._failed)
        size = count * self.store.spec.bytes_per_item
        if count >= self._rows or size >= _BYTES or time.monotonic() - self._flushed > _SECONDS:
            self._begin()

    def flush(self) -> None:
        """Append what is waiting, in one commit, and wait until it is there."""
        self._begin()
        self._finish()

    def _begin(self) -> None:
        self._finish()
        self._flushed = time.monotonic()
        waiting, failed, then = self._waiting, self._failed, self._then
        self._waiting, self._failed, self._then = [], {}, []
        if self._thread is None:
            self._append(waiting, failed, then)
        else:
            self._under_way = self._thread.submit(self._append, waiting, failed, then)

    def _finish(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _append(
        self, waiting: list[TapOutput], failed: dict[str, str], then: list[Callable[[], None]]
    ) -> None:
        start = time.monotonic()
        spec = self.store.spec
        if waiting or failed:
            joined = TapOutput.cat(waiting) if waiting else _nothing(spec)
            self.store.append(
                joined.item_ids,
                joined.features,
                joined.mask,
                fingerprints=self._fingerprints,
                failures=failed,
                replace=True,
            )
            if self.store.pieces > _MANY_PIECES:
                self.store.compact(keep=timedelta(minutes=10))
        for call in then:
            call()
        self.seconds += time.monotonic() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None or not issubclass(kind, StoreError):
                self.flush()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _sift(self, output: TapOutput) -> tuple[TapOutput, dict[str, str]]:
        """Rows that can be stored, in the store's dtype, and why the others cannot."""
        features = output.features.to(self.store.spec.torch_dtype).cpu()  # (B, L, S, D)
        mask = output.mask.cpu()  # (B, S)
        known = mask.any(1)
        good = torch.isfinite(features).flatten(1).all(1) & known
        if good.all():
            return TapOutput(output.item_ids, features, mask), {}
        unfit = {
            output.item_ids[row]: self._why_not_finite(output.features[row])
            if known[row]
            else "no video, no cover and no text that the prompt uses"
            for row in (~good).nonzero().flatten().tolist()
        }
        keep = good.nonzero().flatten()
        ids = [output.item_ids[row] for row in keep.tolist()]
        return TapOutput(ids, features[keep], mask[keep]), unfit

    def _why_not_finite(self, values: Tensor) -> str:
        if not torch.isfinite(values).all():
            return "the model's states hold NaN or infinity"
        dtype = self.store.spec.dtype
        return f"a value of {values.abs().max().item():.3g} does not fit {dtype}; store float32"


def _nothing(spec: StoreSpec) -> TapOutput:
    features = torch.zeros(0, *spec.shape, dtype=spec.torch_dtype)
    return TapOutput([], features, torch.zeros(0, len(spec.slots), dtype=torch.bool))
