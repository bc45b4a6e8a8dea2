"""Many videos at once, in order, ahead of whoever consumes them."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from queue import SimpleQueue

from linkedout_lightning.errors import ConfigError, VideoDecodeError
from linkedout_lightning.machine import usable_cores
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.isolation import DecoderProcess
from linkedout_lightning.video.room import Room, Task
from linkedout_lightning.video.sampler import FrameSampler

Outcome = Frames | VideoDecodeError


class DecodePool:
    """Decode videos in worker processes that can be killed.

    Each process has the sampler's limits of time and memory. One that hangs is ended, one that
    crashes is replaced; either costs one video. Use it as a context manager.

    Args:
        sampler: What to take of each video. Its ``isolate`` does not matter here.
        workers: Number of processes; by default one a core that this process may use.
        ahead: How many videos may be decoded, or being decoded, before they are asked for; by
            default twice the workers.
        ahead_mb: MiB that the frames which were not asked for yet may take in this process. A
            worker whose result does not fit keeps it, and waits, until it is asked for or there
            is room. Only what is asked for may exceed the bound.

    Example:
        >>> with DecodePool(FrameSampler(frames=2), workers=1) as pool:
        ...     [str(outcome) for outcome in pool.map(["missing.mp4"])]
        ["cannot decode 'missing.mp4': no such file"]
    """

    def __init__(
        self,
        sampler: FrameSampler,
        *,
        workers: int | None = None,
        ahead: int | None = None,
        ahead_mb: int = 1024,
    ) -> None:
        workers = workers if workers is not None else usable_cores()
        ahead = ahead if ahead is not None else 2 * workers
        if workers < 1 or ahead < 1:
            raise ConfigError(f"`workers` is {workers} and `ahead` is {ahead}; give numbers from 1")
        if ahead_mb < 1:
            raise ConfigError(f"`ahead_mb` is {ahead_mb}; give MiB, at least 1")
        self._sampler = sampler
        self._ahead = ahead
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._room = Room(ahead_mb * 2**20)
        self._closed = False
        self._workers = [sampler.new_worker() for _ in range(workers)]
        # The threads only wait for pipes; the decoding is in their processes. Daemons, so that a
        # program which forgets to close the pool still ends.
        self._threads = [
            threading.Thread(target=self._serve, args=(w,), name=f"decode-{i}", daemon=True)
            for i, w in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[Outcome]:
        """Decode every path, lazily and in order.

        Args:
            paths: Taken one by one, never more than ``ahead`` before the results are consumed.

        Yields:
            For each path its frames, or the error that says why there are none.
        """
        if self._closed:
            raise ConfigError("the pool is closed; make another")
        pending: deque[Task] = deque()
        try:
            for path in paths:
                task = Task(os.fsdecode(path))
                self._tasks.put(task)
                pending.append(task)
                if len(pending) >= self._ahead:
                    yield self._room.take(pending.popleft())
            while pending:
                yield self._room.take(pending.popleft())
        finally:
            for task in pending:
                self._room.give_up(task)

    @property
    def restarts(self) -> int:
        """How many processes were replaced so far: after crashes, hangs, leaks, and for age."""
        return sum(max(0, worker.starts - 1) for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that stand now; they start with their first video."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames in this process that nobody has asked for yet."""
        return self._room.held

    def close(self) -> None:
        """End the processes at once; what is being decoded is given up."""
        if self._closed:
            return
        self._closed = True
        self._room.close()
        for _ in self._threads:
            self._tasks.put(None)
        last = time.monotonic() + 10
        for worker, thread in zip(self._workers, self._threads, strict=True):
            # Again and again: a process that is just being started cannot be ended yet.
            while thread.is_alive() and time.monotonic() < last:
                worker.interrupt()
                thread.join(timeout=0.05)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self, worker: DecoderProcess) -> None:
        while (task := self._tasks.get()) is not None:
            if self._closed or not task.future.set_running_or_notify_cancel():
                task.future.cancel()
                continue
            try:
                backend, settings = self._sampler.decoding_of(task.path)
                admit = partial(self._room.admit, task)
                task.future.set_result(worker.decode(task.path, backend, settings, admit=admit))
            except VideoDecodeError as error:
                self._room.release(task)
                task.future.set_result(error)
            except BaseException as error:
                self._room.release(task)
                task.future.set_exception(error)
