"""Running batches through the tap so that one bad item costs one item."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from linkedout_lightning.errors import ConfigError, LinkedOutError
from linkedout_lightning.tap.types import TapInput, TapOutput

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap

# So many items in a row without a success: it is the model or the machine, not the items.
_HOPELESS = 16


class BatchRunner:
    """Prepares and extracts batches; halves those that fail, down to the items that are at fault.

    Args:
        tap: The tap, on its device.

    Attributes:
        prepare_seconds: Time spent in the processor.
        model_seconds: Time spent in the model.
        tokens: Tokens that the model has read.
        largest: Most items that memory has room for, once it has run out.
    """

    def __init__(self, tap: VideoLLMTap) -> None:
        self.tap = tap
        self.prepare_seconds = 0.0
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
        reason = ""
        if self.largest is None or len(items) <= self.largest:
            try:
                output = self._once(items)
            except ConfigError:
                raise
            except Exception as error:
                reason = self._judge(error, items)
            else:
                self._failed_in_a_row = 0
                return [output], {}
        if len(items) == 1:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= _HOPELESS:
                raise LinkedOutError(
                    f"the model failed on {_HOPELESS} items in a row, so it is not the items; "
                    f"the last time: {reason}"
                )
            return [], {items[0].item_id: reason}
        if self._exhausted:
            # Only here, outside the handler, is the failed attempt's memory free again.
            self._exhausted = False
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        outputs: list[TapOutput] = []
        failures: dict[str, str] = {}
        half = (len(items) + 1) // 2
        for part in (items[:half], items[half:]):
            some, bad = self.run(part)
            outputs += some
            failures |= bad
        return outputs, failures

    def _once(self, items: Sequence[TapInput]) -> TapOutput:
        start = time.monotonic()
        batch = self.tap.prepare(items)
        ready = time.monotonic()
        output = self.tap.extract(batch).cpu()
        self.prepare_seconds += ready - start
        self.model_seconds += time.monotonic() - ready
        self.tokens += batch.tokens
        return output

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
