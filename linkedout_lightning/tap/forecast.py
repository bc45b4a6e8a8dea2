"""From the seconds of a few items to the time of a whole extraction.

Decoding, preparing, the model and writing run side by side, so a job takes as long as its slowest
part, and as long as it takes to fill and to empty the line. Where parts share the cores of one
processor, all their work together cannot be faster than those cores.

Letters: n items of a sample, R draws of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_LEVEL = 95
FORMULA = """\
time = loading + start of the workers + the longest of
  N d / workers + the last unit's p and m      decoding
  N m + the first unit's d / workers           the model
  N p / threads                                the processor
  N w                                          writing
  N (d + p + c m) / cores                      the machine's cores, which all of them share
N items; d, p, m, w: seconds an item; c: cores that the model keeps busy"""

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """What an extraction runs on.

    Attributes:
        workers: Processes that decode.
        threads: Threads that prepare.
        cores: Cores of the processor.
        model_cores: Cores that are busy while the model runs.
        starting: Seconds until the processes that decode are at work.
    """

    workers: int
    threads: int
    cores: int
    model_cores: float
    starting: float = 0.0


@dataclass(frozen=True)
class Kind:
    """Items that go the same way, and the seconds of a sample of them.

    Attributes:
        count: How many there are.
        unit: How many are committed together.
        decode: Seconds of one worker, ``(n,)``; 0 without a file.
        prepare: Seconds of one thread, ``(n,)``.
        model: Seconds of the model, transfer included, ``(n,)``; 0 where the item failed.
        write: Seconds of writing an item.
    """

    count: int
    unit: int
    decode: Seconds
    prepare: Seconds
    model: Seconds
    write: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """How long it takes.

    Attributes:
        seconds: Without loading.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        parts: Seconds by part, as if it were alone: decode, prepare, model, write, cores.
        bottleneck: The part that the others wait for.
    """

    seconds: float
    low: float
    high: float
    parts: dict[str, float]
    bottleneck: str


def forecast(kinds: Sequence[Kind], line: Line, *, seed: int = 0) -> Forecast:
    """Time of all items.

    The interval is the bootstrap's over the choice of the sampled items: it knows nothing of a
    machine that is slower tomorrow.

    Args:
        kinds: The kinds, one after the other.
        line: What they run on.
        seed: Of the bootstrap's draws.
    """
    chance = np.random.default_rng(seed)
    total, parts, draws = line.starting, dict[str, float](), np.full(_DRAWS, float(line.starting))
    for kind in kinds:
        n = len(kind.decode)
        if not kind.count or not n:
            continue
        spent = _parts(kind, line, np.arange(n)[None])
        total += float(_together(kind, spent)[0])
        parts = {name: parts.get(name, 0.0) + float(spent[name][0]) for name in spent}
        chosen = chance.integers(0, n, (_DRAWS, n))
        drawn = _together(kind, _parts(kind, line, chosen))
        middle = drawn.mean()
        # A bootstrap of few is too narrow by this factor.
        draws += middle + (drawn - middle) * np.sqrt(n / max(1, n - 1))
    outside = (100 - _LEVEL) / 2
    low, high = np.percentile(draws, [outside, 100 - outside])
    bottleneck = max(parts, key=parts.__getitem__) if parts else "nothing"
    return Forecast(total, max(0.0, float(low)), float(high), parts, bottleneck)


def _parts(kind: Kind, line: Line, chosen: NDArray[np.int64]) -> dict[str, Seconds]:
    """Seconds by part, each ``(R,)``, of draws ``(R, n)`` from the sample."""
    decode, prepare, model = (
        kind.count * part[chosen].mean(axis=1) for part in (kind.decode, kind.prepare, kind.model)
    )
    # Workers beyond the cores wait for each other, and their seconds were measured so.
    worked = decode * min(1.0, line.cores / line.workers)
    return {
        "decode": decode / line.workers,
        "prepare": prepare / line.threads,
        "model": model,
        "write": np.full(len(chosen), kind.count * kind.write),
        "cores": (worked + prepare + line.model_cores * model) / line.cores,
    }


def _together(kind: Kind, parts: dict[str, Seconds]) -> Seconds:
    """Seconds of a kind, ``(R,)``: the slowest part, and the line's filling and emptying."""
    share = min(1.0, kind.unit / kind.count)
    # The model waits for the first unit to be decoded, the decoders for the model's last.
    first, last = share * parts["decode"], share * (parts["prepare"] + parts["model"])
    slowest = np.maximum.reduce(list(parts.values()))
    whole = np.maximum(slowest, np.maximum(parts["decode"] + last, parts["model"] + first))
    return whole.astype(np.float64)
