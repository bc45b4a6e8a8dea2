"""Running batches through the tap so that one bad item costs one item."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch

from linkedout_lightning.errors import ConfigError, LinkedOutError
from linkedout_lightning.tap.types import TapBatch, TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap


class _Piece(Protocol):
    @property
    def items(self) -> Sequence[TapInput]: ...

    @property
    def prepared(self) -> Future[TapBatch] | None: ...


_P = TypeVar("_P", bound=_Piece)


@dataclass(frozen=True)
class Done(Generic[_P]):
    """What became of a batch.

    Attributes:
        piece: The batch.
        outputs: Features of the items that succeeded, in their order.
        failures: Reasons of the others.
    """

    piece: _P
    outputs: list[TapOutput]
    failures: dict[str, str]


# So many items in a row without a success: it is the model or the machine, not the items.
_HOPELESS = 16


class BatchRunner:
    """Prepares and extracts batches; halves those that fail, down to the items that are at fault.

    Args:
        tap: The tap, on its device.

    Attributes:
        prepare_seconds: Time spent in the processor, but for batches that came prepared.
        transfer_seconds: Time spent moving batches to the model's device.
        model_seconds: Time spent in the model.
        tokens: Tokens that the model has read.
        largest: Most items that memory has room for, once it has run out.
    """

    def __init__(self, tap: VideoLLMTap) -> None:
        self.tap = tap
        self.prepare_seconds = 0.0
        self.transfer_seconds = 0.0
        self.model_seconds = 0.0
        self.tokens = 0
        self.largest: int | None = None
        self._failed_in_a_row = 0
        self._exhausted = False

    def run(self, items: Sequence[TapInput]) -> tuple[list[TapOutput], dict[str, str]]:
        """Extract a batch.

        Args:
            items: Items of one shape.

        Returns:
            Outputs in the order of the items that succeeded, and reasons by item that failed.

        Raises:
            ConfigError: The model cannot take such input at all.
            LinkedOutError: Every item fails, or the accelerator is lost.
        """
        if self._room_for(items):
            try:
                return [self._finish(self._begin(self._prepare(items)))], {}
            except Exception as error:
                return self._apart(items, error)
        return self._halves(items)

    def stream(self, pieces: Iterable[_P]) -> Iterator[Done[_P]]:
        """Extract batches that were prepared elsewhere, in order.

        On a GPU the next batch is handed over before the last one's features are fetched, so that
        the device does not wait for the host in between.

        Args:
            pieces: The batches; one without items passes through.

        Raises:
            ConfigError: As for :meth:`run`.
            LinkedOutError: As for :meth:`run`.
        """
        ahead = self._device().type == "cuda"
        begun: tuple[_P, TapOutput | Exception] | None = None
        for piece in pieces:
            result = self._begun(piece)
            if begun is not None:
                yield self._done(*begun)
            begun = piece, result
            if not ahead:
                yield self._done(*begun)
                begun = None
        if begun is not None:
            yield self._done(*begun)

    def _begun(self, piece: _Piece) -> TapOutput | Exception:
        """The features, perhaps still being computed, or why there are none."""
        if piece.prepared is None or not self._room_for(piece.items):
            return _NotTriedError()
        try:
            return self._begin(piece.prepared.result())
        except Exception as error:
            return error

    def _done(self, piece: _P, result: TapOutput | Exception) -> Done[_P]:
        if not piece.items:
            return Done(piece, [], {})
        if isinstance(result, _NotTriedError):
            return Done(piece, *self.run(piece.items))
        try:
            if isinstance(result, Exception):
                raise result
            return Done(piece, [self._finish(result)], {})
        except Exception as error:
            return Done(piece, *self._apart(piece.items, error))

    def _room_for(self, items: Sequence[TapInput]) -> bool:
        return self.largest is None or len(items) <= self.largest

    def _apart(
        self, items: Sequence[TapInput], error: Exception
    ) -> tuple[list[TapOutput], dict[str, str]]:
        """What a failed batch yields in parts; one item alone yields the reason."""
        if isinstance(error, ConfigError):
            raise error
        reason = self._judge(error, items)
        if len(items) > 1:
            return self._halves(items)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _HOPELESS:
            raise LinkedOutError(
                f"the model failed on {_HOPELESS} items in a row, so it is not the items; "
                f"the last time: {reason}"
            )
        return [], {items[0].item_id: reason}

    def _halves(self, items: Sequence[TapInput]) -> tuple[list[TapOutput], dict[str, str]]:
        outputs: list[TapOutput] = []
        failures: dict[str, str] = {}
        half = (len(items) + 1) // 2
        for part in (items[:half], items[half:]):
            if self._exhausted:
                # Only here, outside of any handler, is the failed attempt's memory free again.
                self._exhausted = False
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            some, bad = self.run(part)
            outputs += some
            failures |= bad
        return outputs, failures

    def _prepare(self, items: Sequence[TapInput]) -> TapBatch:
        start = time.monotonic()
        batch = self.tap.prepare(items)
        self.prepare_seconds += time.monotonic() - start
        return batch

    def _begin(self, batch: TapBatch) -> TapOutput:
        start = time.monotonic()
        moved = batch.to(self._device())
        ready = time.monotonic()
        output = self.tap.extract(moved)
        self.transfer_seconds += ready - start
        self.model_seconds += time.monotonic() - ready
        self.tokens += batch.tokens
        return output

    def _finish(self, output: TapOutput) -> TapOutput:
        start = time.monotonic()
        fetched = output.cpu()  # waits for the device
        self.model_seconds += time.monotonic() - start
        self._failed_in_a_row = 0
        return fetched

    def _device(self) -> torch.device:
        return self.tap.device

    def _judge(self, error: Exception, items: Sequence[TapInput]) -> str:
        """Why a batch failed; raises what concerns more than its items."""
        text = f"{type(error).__name__}: {error}"[:300]
        if _out_of_memory(error):
            self._exhausted = True
            if len(items) > 1:
                self.largest = len(items) // 2
            return f"out of memory, alone in its batch ({text})"
        if "CUDA error" in str(error) or "HIP error" in str(error):
            # The context is gone: every item from here on would fail for nothing.
            raise LinkedOutError(f"the accelerator is lost: {text}") from error
        return f"the model failed: {text}"


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error).lower() for sign in ("out of memory", "can't allocate memory")
    )


class _NotTriedError(Exception):
    """The batch goes through the model in parts from the start."""
