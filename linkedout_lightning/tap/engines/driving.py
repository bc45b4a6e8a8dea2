"""An extraction on an engine, as the process sees it that started it.

What is done is known by the store alone, so a job that was killed, this process and all, is
continued by starting it again, on the engine or without. Items are claimed here for all workers,
as every job does it: others on the same store leave them alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from linkedout_lightning.errors import LinkedOutError
from linkedout_lightning.tap.claims import Claims
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.engines.options import Workers
from linkedout_lightning.tap.engines.ray import RayCluster
from linkedout_lightning.tap.engines.rows import Done
from linkedout_lightning.tap.job import Job
from linkedout_lightning.tap.joining import joined
from linkedout_lightning.tap.progress import Progress
from linkedout_lightning.tap.tally import Tally


def share_on_ray(config: ExtractConfig, job: Job, run: Tally, *, progress: bool) -> None:
    """Do what nobody else does, until all is done.

    Args:
        config: The extraction.
        job: What is to be done; its tap needs no weights.
        run: Filled in.
        progress: Show a progress bar.

    Raises:
        ConfigError: The options do not fit the cluster, or the model is not usable.
        LinkedOutError: A worker found what no other worker can do better.
        MissingExtraError: Ray is not installed.
    """
    begun = time.time()
    with ExitStack() as stack:
        claims, source, units = stack.enter_context(joined(config, job, run))
        stack.enter_context(_living(claims, config.lease))
        bar = stack.enter_context(Progress(len(run.work.todo), shown=progress))
        cluster: RayCluster | None = None
        count = _Count()
        left = bool(units)
        while left:
            if free := [*source.take_free(watch=True), *source.take_free(watch=False)]:
                if cluster is None:
                    cluster = stack.enter_context(RayCluster.joined(config))
                sizes = {unit.number: len(unit.items) for unit in free}
                for done in cluster.run(free, config, job):
                    source.complete([done.number])
                    count.add(done)
                    bar.advance(
                        sizes.pop(done.number), failed=len(done.failures), tokens=count.tokens
                    )
                if sizes:
                    raise LinkedOutError(f"Ray lost {len(sizes)} units of work without a word")
            bar.others(source.by_others)
            left = source.wait(bar.waiting)
        bar.others(source.by_others)
        if cluster is not None:
            run.notes.append(cluster.name)
            count.tell(cluster.workers, begun=begun, run=run)


@dataclass
class _Count:
    """What came back from the workers."""

    done: int = 0
    tokens: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ready: dict[str, float] = field(default_factory=dict)

    def add(self, unit: Done) -> None:
        self.done += unit.done
        self.tokens += unit.tokens
        self.failures |= unit.failures
        self.ready[unit.worker] = unit.ready
        for part, seconds in unit.seconds.items():
            self.spent[part] += seconds

    def tell(self, workers: Workers, *, begun: float, run: Tally) -> None:
        """Say where the time went, of one worker in the mean.

        Args:
            workers: Who they were.
            begun: When the engine began to start, in seconds since 1970.
            run: Where to say it.
        """
        run.done, run.failures, run.tokens = self.done, self.failures, self.tokens
        for part, spent in self.spent.items():
            sharing = workers.decoders if part == "decode" else workers.actors
            run.clock.seconds[part] = spent / sharing
        loading = max(0.0, min(self.ready.values(), default=begun) - begun)
        run.clock.seconds["load"] = loading
        gpus = f" ({workers.gpus:g} GPU each)" if workers.gpus else ""
        run.notes.append(
            f"{workers.actors} workers with the model{gpus}, {workers.decoders} that decode; "
            f"{loading:.1f} s until a model was ready"
        )
        if (replaced := len(self.ready) - workers.actors) > 0:
            run.notes.append(f"workers with the model lost and replaced: {replaced}")


@contextlib.contextmanager
def _living(claims: Claims, lease: float) -> Iterator[None]:
    """Show life while the workers are at it, however long a unit takes them."""
    stop = threading.Event()

    def show() -> None:
        while not stop.wait(min(10.0, lease / 6)):
            # The disk may be full for a while; the next time it may not be.
            with contextlib.suppress(LinkedOutError):
                claims.show_life()

    thread = threading.Thread(target=show, name="claims", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
