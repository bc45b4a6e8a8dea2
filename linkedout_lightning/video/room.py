"""How much decoding ahead may hold: a bound in bytes, which cannot bring the pool to a stand."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.frames import Frames


@dataclass(eq=False)
class Task:
    """One video of a pool.

    Attributes:
        path: The file.
        future: Its outcome.
        held: Bytes of its frames that count against the bound.
        wanted: Whether somebody waits for the outcome, or nobody ever will: it takes no room.
    """

    path: str
    future: Future[Frames | VideoDecodeError] = field(default_factory=Future)
    held: int = 0
    wanted: bool = False


class Room:
    """Counts the bytes of frames that are in memory before they are asked for.

    Args:
        limit: The most that they may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._condition = threading.Condition()
        self._awaited: set[Task] = set()
        self._closed = False
        self.held = 0

    def admit(self, task: Task, size: int) -> None:
        """Wait until a result of ``size`` bytes fits, or is asked for, and count it.

        Somebody may wait for a video that no worker has begun, because all of them wait here with
        the results of another `map` that nobody consumes: then results go in over the bound.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._may_enter(task, size))
            if not task.wanted:
                task.held += size
                self.held += size

    def _may_enter(self, task: Task, size: int) -> bool:
        if self._closed or task.wanted or self.held + size <= self._limit:
            return True
        return any(map(_not_begun, self._awaited))

    def take(self, task: Task) -> Frames | VideoDecodeError:
        """Wait for an outcome; its frames are the caller's from then on."""
        with self._condition:
            task.wanted = True
            self._awaited.add(task)
            self._condition.notify_all()
        try:
            return task.future.result()
        finally:
            with self._condition:
                self._awaited.discard(task)
            self.release(task)

    def give_up(self, task: Task) -> None:
        """Nobody will ask for this outcome any more."""
        task.future.cancel()
        with self._condition:
            task.wanted = True
        self.release(task)

    def release(self, task: Task) -> None:
        """Count the frames of a task no longer."""
        with self._condition:
            self.held -= task.held
            task.held = 0
            self._condition.notify_all()

    def close(self) -> None:
        """Let everybody go on."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


def _not_begun(task: Task) -> bool:
    return not task.future.running() and not task.future.done()
