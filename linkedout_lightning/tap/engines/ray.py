"""The one file that imports Ray: workers that decode stream into workers that hold the model.

Ray moves the frames and replaces workers that are lost; it knows nothing of items and stores.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from linkedout_lightning.errors import ConfigError, LinkedOutError, MissingExtraError
from linkedout_lightning.machine import usable_cores
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.engines.decoding import DecodeStage
from linkedout_lightning.tap.engines.extracting import TapStage
from linkedout_lightning.tap.engines.options import EngineOptions, Workers, workers_for
from linkedout_lightning.tap.engines.rows import Done, blocks_of, done_of, unit_rows
from linkedout_lightning.tap.job import Job
from linkedout_lightning.tap.units import Unit

# Ray reads these as it is imported and started; what somebody has set stays.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True)
class RayCluster:
    """Ray, running, and the workers that a job has there.

    Attributes:
        workers: Who does what.
        name: What it is, and what it took to get there, for people.
    """

    workers: Workers
    name: str

    @classmethod
    @contextlib.contextmanager
    def joined(cls, config: ExtractConfig) -> Iterator[RayCluster]:
        """Ray as the caller has it, or the cluster of ``RAY_ADDRESS``, or one for this job."""
        address = os.environ.get("RAY_ADDRESS")
        # What a cluster has to say should be seen; one that is started for the job is to be quiet.
        talkative = address is not None or "RAY_BACKEND_LOG_LEVEL" in os.environ
        for name, value in ({} if address else _ENVIRONMENT).items():
            os.environ.setdefault(name, value)
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MissingExtraError("ray[data]", "ray", "engine='ray'") from error
        begun = time.monotonic()
        mine = not ray.is_initialized()
        planned: Workers | None = None
        with warnings.catch_warnings(), _no_stderr(unless=talkative):
            # Ray's daemons are forked and then run another program: no store is open there.
            warnings.filterwarnings("ignore", "lance is not fork-safe")
            if mine and address:
                _join(address)
            elif mine:
                planned = _start(config)
        stack = contextlib.ExitStack()
        # Ray prints what happens to its workers, where `--json` has its document alone.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            if planned is None:
                there = ray.cluster_resources()
                planned = workers_for(
                    EngineOptions.parse(config.engine_options),
                    device=config.device,
                    cores=int(there.get("CPU", 0)),
                    gpus=int(there.get("GPU", 0)),
                )
            nodes = sum(bool(node["Alive"]) for node in ray.nodes())
            machines = "1 machine" if nodes == 1 else f"{nodes} machines"
            spent = time.monotonic() - begun
            name = f"by Ray {ray.__version__} on {machines}, started or joined in {spent:.1f} s"
            yield cls(planned, name)
        finally:
            with stack:
                if mine:
                    ray.shutdown()

    def run(self, units: Sequence[Unit], config: ExtractConfig, job: Job) -> Iterator[Done]:
        """Send units through the workers; each comes back once it is in the store."""
        from ray.data import DataContext

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with DataContext.current(context):
            rows = self._rows(units, config, job)
        with _errors_as_ours():
            for table in rows.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield from done_of(table)

    def _rows(self, units: Sequence[Unit], config: ExtractConfig, job: Job) -> Any:
        """The stages as Ray has them, block by block."""
        from ray.data import ActorPoolStrategy, from_arrow

        blocks = blocks_of(units, workers=self.workers.actors)
        if any(unit.watch for unit in units):
            rows = from_arrow(
                [unit_rows(map(_absolute_unit, some)) for some in blocks]
            ).map_batches(
                DecodeStage,
                fn_constructor_args=(job.sampler,),
                fn_constructor_kwargs={
                    "sources": job.tap.sources,
                    "columns": job.tap.columns,
                    "workers": self.workers.decoder_cpus,
                },
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    size=self.workers.decoders, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=self.workers.decoder_cpus,
            )
        else:
            stage = DecodeStage(None, sources=(), columns=job.tap.columns)
            rows = from_arrow([stage(block) for block in blocks])
        return rows.map_batches(
            TapStage,
            fn_constructor_args=(_absolute(config, on_gpu=self.workers.gpus > 0), job.sampler),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=self.workers.actors,
                max_tasks_in_flight_per_actor=2,
                max_concurrent_calls_per_actor=2,
                enable_true_multi_threading=True,
            ),
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus or None,
        )


def _start(config: ExtractConfig) -> Workers:
    """Start Ray on this machine, for this process."""
    import ray
    import torch

    options = EngineOptions.parse(config.engine_options)
    cores, gpus = usable_cores(), torch.cuda.device_count()
    planned = workers_for(
        options, device=config.device, cores=cores, gpus=gpus, decoders=config.workers or cores
    )
    memory = options.object_store_mb
    ray.init(
        address="local",  # not one that happens to run here
        num_cpus=planned.cores,  # as Ray counts them; decoders and models take turns
        num_gpus=gpus,
        object_store_memory=None if memory is None else memory * 2**20,
        include_dashboard=False,
        **_QUIET,
    )
    return planned


def _join(address: str) -> None:
    """Connect to a cluster, of which Ray itself tries to hear for minutes.

    Raises:
        ConfigError: Nobody answers, or it does not let this process in.
    """
    import ray

    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:  # not "auto", nor a client's address
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(
                f"RAY_ADDRESS is {address!r}, where nobody answers: {error}"
            ) from error
    try:
        ray.init(**_QUIET)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"RAY_ADDRESS is {address!r}, but Ray could not join: {error}; a cluster with tokens "
            "wants RAY_AUTH_MODE=token and the token here too"
        ) from error


@contextlib.contextmanager
def _no_stderr(*, unless: bool) -> Iterator[None]:
    """Native code of Ray says on the error output at which level it logs; errors are raised."""
    if unless:
        yield
        return
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextlib.contextmanager
def _errors_as_ours() -> Iterator[None]:
    """Errors of workers as what they were there."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        seen: BaseException | None = error
        while seen is not None:
            cause = getattr(seen, "cause", None) or seen.__cause__
            if isinstance(seen, LinkedOutError) and not isinstance(seen, ray.exceptions.RayError):
                raise seen from None
            seen = cause
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise LinkedOutError(f"Ray gave up: {lines[-1] if lines else error!r}") from error


def _absolute(config: ExtractConfig, *, on_gpu: bool) -> ExtractConfig:
    """The same with paths that hold in any working directory."""
    model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
    out = config.out if "://" in config.out else os.path.abspath(config.out)
    device = "cuda" if on_gpu else "cpu"
    if config.device_map is not None:
        device = config.device  # spread over all that the worker sees
    return replace(config, model=model, out=out, device=device)


def _absolute_unit(unit: Unit) -> Unit:
    items = tuple(
        replace(
            item,
            **{
                name: os.path.abspath(path)
                for name in ("video", "cover")
                if (path := getattr(item, name)) is not None and "://" not in path
            },
        )
        for item in unit.items
    )
    return replace(unit, items=items)
