"""How large an extraction on an engine is; read by the command line, so without the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from linkedout_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Workers of an extraction on an engine, and what each of them takes.

    Args:
        actors: Workers that hold the model; by default one a GPU, without any 2.
        gpus_per_actor: GPUs of each; by default 1 where there are some, else 0. A part of one
            lets workers share it.
        cpus_per_actor: Cores of each; by default 1 beside a GPU, else its share of the machine.
        decoders: Workers that decode; by default what cores are left, or a core each on one
            machine.
        cpus_per_decoder: Processes that decode in each of them, a core for each.
        object_store_mb: MiB for frames on their way, where the engine is started for the job; by
            default a part of the machine's memory that the engine chooses.

    Raises:
        ConfigError: If a number is out of range.
    """

    actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: int | None = None
    decoders: int | None = None
    cpus_per_decoder: int = 1
    object_store_mb: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "gpus_per_actor" else 1
            whole = field.name == "gpus_per_actor" or value is None or value == int(value)
            if value is not None and not (value >= least and whole):
                raise ConfigError(
                    f"`engine_options` has {field.name}={value}; give "
                    + ("0 or more" if least == 0 else "a whole number from 1")
                )

    @classmethod
    def parse(cls, given: Mapping[str, float]) -> EngineOptions:
        """The options by their names.

        Raises:
            ConfigError: If there is no option of a name, or a number is out of range.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise ConfigError(f"`engine_options` has {name!r}; there are {', '.join(names)}")
        whole = {k: v if k == "gpus_per_actor" else _whole(v) for k, v in given.items()}
        return cls(**whole)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Workers:
    """Who does what, with every number set.

    Attributes:
        actors: Workers that hold the model.
        gpus: GPUs of each.
        cpus: Cores of each.
        decoders: Workers that decode.
        decoder_cpus: Cores, and decoding processes, of each.
    """

    actors: int
    gpus: float
    cpus: int
    decoders: int
    decoder_cpus: int

    @property
    def cores(self) -> int:
        """Cores of all."""
        return self.actors * self.cpus + self.decoders * self.decoder_cpus


def workers_for(
    options: EngineOptions,
    *,
    device: str,
    cores: int,
    gpus: int,
    decoders: int | None = None,
) -> Workers:
    """Fill in what the options leave open.

    Args:
        options: The options.
        device: The extraction's.
        cores: Cores that there are.
        gpus: GPUs that there are.
        decoders: Workers that decode, where the options leave that open, on a machine whose cores
            may be promised twice; without, nothing is.

    Raises:
        ConfigError: There is no room for them, or the device cannot be had.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"`device` is {device!r}; on an engine give auto, cpu or cuda, and actors and "
            "gpus_per_actor in `engine_options`"
        )
    each = options.gpus_per_actor if options.gpus_per_actor is not None else float(gpus > 0)
    each = 0.0 if device == "cpu" else each
    if gpus == 0 and (each or device == "cuda"):
        raise ConfigError("workers are to have GPUs, but the engine finds none")
    actors = options.actors or (max(1, int(gpus / each)) if each else 2)
    promised_once = decoders is None
    share = 1 if each or promised_once else max(1, cores // actors)
    cpus = options.cpus_per_actor or share
    left = cores - actors * cpus if decoders is None else decoders
    found = Workers(
        actors=actors,
        gpus=each,
        cpus=cpus,
        decoders=options.decoders or max(1, left // options.cpus_per_decoder),
        decoder_cpus=options.cpus_per_decoder,
    )
    if (promised_once and found.cores > cores) or actors * each > gpus:
        raise ConfigError(
            f"{actors} actors and {found.decoders} decoders want {found.cores} cores and "
            f"{actors * each:g} GPUs, but the engine has {cores} and {gpus}; set actors, "
            "decoders and what each takes in `engine_options`"
        )
    return found


def _whole(value: float) -> float:
    """2.0, as a list of decimal numbers has it, as 2."""
    return int(value) if value == int(value) else value
