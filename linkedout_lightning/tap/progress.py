"""How far an extraction is."""

from __future__ import annotations

from typing import Any


class Progress:
    """A bar with rate, time left and failures, or nothing.

    Args:
        total: Items to do.
        shown: Draw it.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=total, desc="extract", unit="item", disable=not (shown and total), smoothing=0.1
        )
        self._failed = 0

    def advance(self, count: int, *, failed: int = 0) -> None:
        """Count items, ``failed`` of them without features."""
        self._failed += failed
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
