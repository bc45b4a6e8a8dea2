from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from linkedout_lightning.serving.server.batching import MicroBatcher


def test_what_waits_together_is_answered_together() -> None:
    sizes: list[int] = []
    go = threading.Event()

    def compute(key: str, asked: Sequence[int]) -> list[str]:
        go.wait(10)
        return [f"{key}{number}" for number in asked]

    async def run() -> list[str]:
        batcher = MicroBatcher(compute, most=3, observe=sizes.append)
        tasks = [asyncio.create_task(batcher.ask("a", 0))]
        await asyncio.sleep(0.05)  # the first is being answered; these come meanwhile
        keys = ["a", "b", "a", "a", "b", "a"]
        tasks += [asyncio.create_task(batcher.ask(key, n)) for n, key in enumerate(keys, 1)]
        await asyncio.sleep(0.05)
        go.set()
        answers = await asyncio.gather(*tasks)
        await batcher.close()
        return answers

    assert asyncio.run(run()) == ["a0", "a1", "b2", "a3", "a4", "b5", "a6"]
    assert sizes == [1, 3, 2, 1]


def test_a_request_at_fault_fails_alone() -> None:
    go = threading.Event()

    def compute(_: str, asked: Sequence[int]) -> list[int]:
        go.wait(10)
        if -1 in asked:
            raise ValueError("minus one")
        return [number * 2 for number in asked]

    async def run() -> None:
        batcher = MicroBatcher(compute, most=8)
        tasks = [asyncio.create_task(batcher.ask("a", n)) for n in (1, 2, -1, 3)]
        await asyncio.sleep(0.05)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [found[0], found[1], found[3]] == [2, 4, 6]
        assert isinstance(found[2], ValueError)

    asyncio.run(run())


def test_whoever_has_gone_is_not_computed_for() -> None:
    seen: list[int] = []
    go = threading.Event()

    def compute(_: str, asked: Sequence[int]) -> list[int]:
        go.wait(10)
        seen.extend(asked)
        return list(asked)

    async def run() -> None:
        batcher = MicroBatcher(compute, most=8)
        first = asyncio.create_task(batcher.ask("a", 1))
        await asyncio.sleep(0.05)
        gone, stays = (asyncio.create_task(batcher.ask("a", n)) for n in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        assert await first == 1
        assert await stays == 3
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    assert seen == [1, 3]
