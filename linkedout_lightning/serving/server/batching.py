"""Requests that wait at the same time are answered in one pass of the model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

Compute = Callable[[Key, Sequence[Asked]], Sequence[Answer]]
"""What answers several requests of one kind; runs in the batcher's thread."""


@dataclass
class _Waiting(Generic[Key, Asked, Answer]):
    key: Key
    asked: Asked
    answer: asyncio.Future[Answer]


class MicroBatcher(Generic[Key, Asked, Answer]):
    """Takes requests one by one and has them answered together, as many as are waiting.

    Nothing is waited for: a request that finds the model idle goes at once, alone, and those that
    come meanwhile go together next. So batches grow with the load, and cost no time without it.

    Args:
        compute: Answers requests of one key, in order.
        most: Most requests at a time.
        observe: Told how many were answered together.
    """

    def __init__(
        self,
        compute: Compute[Key, Asked, Answer],
        *,
        most: int,
        observe: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._compute, self._most, self._observe = compute, most, observe
        self._queue: deque[_Waiting[Key, Asked, Answer]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._running: asyncio.Task[None] | None = None

    async def ask(self, key: Key, asked: Asked) -> Answer:
        """The answer to one request.

        Args:
            key: Requests of the same key may share a pass.
            asked: The request.

        Raises:
            Exception: What ``compute`` raises for this request alone.
        """
        waiting = _Waiting(key, asked, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        answer: Answer = await waiting.answer
        return answer

    async def close(self) -> None:
        """Answer what is waiting, then end the thread."""
        if self._running is not None:
            await self._running
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while group := self._next():
                self._observe(len(group))
                answers = await loop.run_in_executor(self._thread, self._answered, group)
                for waiting, answer in zip(group, answers, strict=True):
                    if waiting.answer.done():  # whoever asked has gone
                        continue
                    if isinstance(answer, BaseException):
                        waiting.answer.set_exception(answer)
                    else:
                        waiting.answer.set_result(answer)
        finally:
            self._running = None

    def _next(self) -> list[_Waiting[Key, Asked, Answer]]:
        """The oldest request, and those after it that may share its pass."""
        group: list[_Waiting[Key, Asked, Answer]] = []
        others: deque[_Waiting[Key, Asked, Answer]] = deque()
        while self._queue and len(group) < self._most:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            if not group or waiting.key == group[0].key:
                group.append(waiting)
            else:
                others.append(waiting)
        self._queue.extendleft(reversed(others))
        return group

    def _answered(self, group: list[_Waiting[Key, Asked, Answer]]) -> Sequence[Answer | Exception]:
        key = group[0].key
        try:
            return self._compute(key, [waiting.asked for waiting in group])
        except Exception as error:
            if len(group) == 1:
                return [error]
        # One of them is at fault; the others must not suffer for it.
        return [answer for waiting in group for answer in self._answered([waiting])]
