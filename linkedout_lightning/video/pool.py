"""Many videos at once, in order, ahead of whoever consumes them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

from linkedout_lightning.errors import ConfigError, VideoDecodeError
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.isolation import DecoderProcess
from linkedout_lightning.video.sampler import FrameSampler

Outcome = Frames | VideoDecodeError
_Task = tuple[str, "Future[Outcome]"]


class DecodePool:
    """Decode videos in worker processes that can be killed.

    Each process has the sampler's limits of time and memory. One that hangs is ended, one that
    crashes is replaced; either costs one video. Use it as a context manager.

    Args:
        sampler: What to take of each video. Its ``isolate`` does not matter here.
        workers: Number of processes; by default one a core that this process may use.
        ahead: How many videos may be decoded, or being decoded, before they are asked for; by
            default twice the workers. It bounds the memory.

    Example:
        >>> with DecodePool(FrameSampler(frames=2), workers=1) as pool:
        ...     [str(outcome) for outcome in pool.map(["missing.mp4"])]
        ["cannot decode 'missing.mp4': no such file"]
    """

    def __init__(
        self, sampler: FrameSampler, *, workers: int | None = None, ahead: int | None = None
    ) -> None:
        workers = workers if workers is not None else _usable_cores()
        ahead = ahead if ahead is not None else 2 * workers
        if workers < 1 or ahead < 1:
            raise ConfigError(f"`workers` is {workers} and `ahead` is {ahead}; give numbers from 1")
        self._sampler = sampler
        self._ahead = ahead
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
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
        pending: deque[Future[Outcome]] = deque()
        try:
            for path in paths:
                future: Future[Outcome] = Future()
                self._tasks.put((os.fsdecode(path), future))
                pending.append(future)
                if len(pending) >= self._ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the processes at once; what is being decoded is given up."""
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for worker in self._workers:
            worker.interrupt()
        for thread in self._threads:
            thread.join(timeout=10)
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self, worker: DecoderProcess) -> None:
        while (task := self._tasks.get()) is not None:
            path, future = task
            if self._closed or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                future.set_result(worker.decode(path, *self._sampler.decoding_of(path)))
            except VideoDecodeError as error:
                future.set_result(error)
            except BaseException as error:
                future.set_exception(error)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
