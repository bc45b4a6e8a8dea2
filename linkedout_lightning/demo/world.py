"""What a simulated clip is made of: twelve attributes, and the chance that surrounds them.

Pure data. A clip is one code for each attribute of `ATTRIBUTES` (what captions speak of and users
care about) and `NUISANCES` uniform numbers (where the subject starts, which way it spins, ...: what
nobody cares about).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from linkedout_lightning.errors import DataError

ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": (
            "triangle",
            "square",
            "star",
            "heart",
            "cross",
            "crescent",
            "arrow",
            "hourglass",
        ),
        "color": ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white"),
        "fill": ("solid", "hollow", "striped", "dotted"),
        "size": ("small", "large"),
        "companion": ("disc", "triangle", "square", "cross"),
        "companion_color": ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white"),
        "scene": ("beach", "forest", "city", "space", "meadow", "room"),
        "light": ("day", "dusk", "night"),
        "event": ("left", "right", "up", "down", "grows", "shrinks", "spins", "blinks"),
        "speed": ("slow", "fast"),
        "pacing": ("calm", "steady", "rapid"),
        "camera": ("still", "pan", "zoom"),
    }
)
"""Attribute -> its values; a clip's code is an index into them."""

NAMES: tuple[str, ...] = tuple(ATTRIBUTES)
SIZES: tuple[int, ...] = tuple(len(values) for values in ATTRIBUTES.values())
CUTS: tuple[int, ...] = (0, 1, 3)
"""Cuts in a clip, by the code of `pacing`."""
NUISANCES = 16
"""Uniform numbers a clip; `render.trajectory` says what each one moves."""


@dataclass(frozen=True)
class Clips:
    """Clips before they are rendered.

    Attributes:
        codes: int64 (n, 12), the columns in the order of `NAMES`.
        nuisance: float32 (n, `NUISANCES`), uniform in [0, 1).
    """

    codes: npt.NDArray[np.int64]
    nuisance: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(NAMES):
            raise DataError(f"`codes` has shape {self.codes.shape}, expected (n, {len(NAMES)})")
        if self.nuisance.shape != (len(self.codes), NUISANCES):
            expected = (len(self.codes), NUISANCES)
            raise DataError(f"`nuisance` has shape {self.nuisance.shape}, expected {expected}")
        if len(self.codes) and ((self.codes < 0).any() or (self.codes >= np.array(SIZES)).any()):
            raise DataError(f"`codes` must lie in 0 .. size - 1 of each attribute; sizes: {SIZES}")

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: slice | npt.NDArray[np.int64]) -> Clips:
        return Clips(codes=self.codes[index], nuisance=self.nuisance[index])

    def code(self, name: str) -> npt.NDArray[np.int64]:
        """Codes (n,) of one attribute."""
        return self.codes[:, NAMES.index(name)]

    def words(self, name: str) -> list[str]:
        """Values (n) of one attribute, as words."""
        return [ATTRIBUTES[name][i] for i in self.code(name)]


def sample_clips(n: int, rng: np.random.Generator) -> Clips:
    """Draw `n` clips, every attribute uniform and independent of the others."""
    codes = rng.integers(0, np.array(SIZES), size=(n, len(NAMES)))
    return Clips(codes=codes, nuisance=rng.random((n, NUISANCES), dtype=np.float32))


def from_words(columns: Mapping[str, Sequence[str]], nuisance: npt.NDArray[np.float32]) -> Clips:
    """Clips from columns of attribute words (the opposite of `Clips.words`).

    Raises:
        DataError: A column is missing or holds a word that is no value of its attribute.
    """
    codes = []
    for name, values in ATTRIBUTES.items():
        if name not in columns:
            raise DataError(f"column `{name}` is missing; a clip needs {', '.join(NAMES)}")
        index = {word: i for i, word in enumerate(values)}
        unknown = sorted({word for word in columns[name] if word not in index})
        if unknown:
            raise DataError(f"`{name}` holds {unknown[:3]}; its values are {', '.join(values)}")
        codes.append([index[word] for word in columns[name]])
    return Clips(codes=np.array(codes, dtype=np.int64).T, nuisance=nuisance)
