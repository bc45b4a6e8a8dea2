"""How far an extraction is."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any


class Progress:
    """A bar with items and tokens a second, time left and failures, or nothing.

    Args:
        total: Items to do.
        shown: Draw it.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(
            total=total, desc="extract", unit="item", disable=not (shown and total), smoothing=0.1
        )
        self._facts: dict[str, Any] = {}
        self._failed = 0
        self._others = 0
        self._began = time.monotonic()

    def advance(self, count: int, *, failed: int = 0, tokens: int = 0) -> None:
        """Count items.

        Args:
            count: How many more.
            failed: How many of them without features.
            tokens: How many tokens the model has read in all.
        """
        if tokens:
            spent = max(1e-9, time.monotonic() - self._began)
            self._facts["tokens/s"] = f"{tokens / spent:.0f}"
        self._failed += failed
        if self._failed:
            self._facts["failed"] = self._failed
        self._bar.set_postfix(self._facts, refresh=False)
        self._bar.update(count)

    def others(self, count: int) -> None:
        """Say how many items other jobs have done since the start."""
        if count > self._others:
            self._facts["by others"] = count
            self._bar.set_postfix(self._facts, refresh=False)
            self._bar.update(count - self._others)
            self._others = count

    def waiting(self, holders: Mapping[str, int]) -> None:
        """Say who is at the items that are left."""
        who = "; ".join(f"{name}: {count}" for name, count in sorted(holders.items())[:3])
        self._bar.set_postfix_str(f"waiting for items that others are at ({who})")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


@contextmanager
def bars_of_transformers(shown: bool) -> Iterator[None]:
    """Whether downloads and loading draw bars of their own, which a quiet job must not.

    Args:
        shown: False silences them within the block; True changes nothing. Bars that an
            environment variable of the hub turns on or off stay so.
    """
    if shown:
        yield
        return
    import huggingface_hub.utils
    from transformers import modeling_gguf_pytorch_utils as gguf
    from transformers.utils import logging

    hub: Any = huggingface_hub.utils  # it types these functions as private
    ours, theirs = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    plain = getattr(gguf, "tqdm", None)
    _switch(logging.disable_progress_bar)
    if plain is not None:
        # De-quantizing draws its bar past transformers' own switch (v5.23).
        gguf.tqdm = partial(plain, disable=True)
    try:
        yield
    finally:
        if plain is not None:
            gguf.tqdm = plain
        if ours:
            _switch(logging.enable_progress_bar)
        if ours != theirs:
            _switch(hub.enable_progress_bars if theirs else hub.disable_progress_bars)


def _switch(change: Any) -> None:
    """Turn bars on or off; what the environment has fixed is not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change()
