"""How long a request may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from linkedout_lightning.serving.server.problems import RefusedError

Result = TypeVar("Result")


async def in_time(work: Awaitable[Result], seconds: float, *, changes: bool = False) -> Result:
    """The result of some work, or a refusal.

    Args:
        work: What is awaited.
        seconds: How long.
        changes: The work changes something, which may still come about after the refusal.

    Raises:
        RefusedError: With status 503, after ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        reason = (
            f"not done within {seconds:g} s; it may still be done later"
            if changes
            else f"no answer within {seconds:g} s; come again"
        )
        raise RefusedError(503, reason, headers={"retry-after": "1"}) from None
