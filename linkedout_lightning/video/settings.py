"""What a decoder is asked for: the part of a sampler that crosses to the worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linkedout_lightning.errors import ConfigError

MAX_PIXELS = 1 << 26
"""Frames above 8192x8192 are refused by default; 8K video has half of that."""


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How many frames, how large, and what is too large.

    Attributes:
        frames: Number of frames ``T``.
        size: ``None`` keeps the video's own size; an int is the most that the shorter side may
            have, the aspect ratio stays and nothing is enlarged; ``(height, width)`` is exact.
        max_pixels: Largest width x height, of the source and of the result, that is decoded.
    """

    frames: int = 8
    size: int | tuple[int, int] | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if isinstance(self.size, Sequence):
            object.__setattr__(self, "size", tuple(self.size))
        _require_positive("frames", self.frames)
        _require_positive("max_pixels", self.max_pixels)
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if isinstance(self.size, tuple) and len(sides) != 2:
            raise ConfigError(f"`size` is {self.size!r}; give None, an int or (height, width)")
        for side in sides:
            if side is not None:
                _require_positive("size", side)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the result for an upright source of ``height`` x ``width``.

        Example:
            >>> DecodeSettings(size=224).target_size(720, 1280)
            (224, 398)
            >>> DecodeSettings(size=224).target_size(120, 160)
            (120, 160)
            >>> DecodeSettings(size=(224, 224)).target_size(720, 1280)
            (224, 224)
        """
        if isinstance(self.size, tuple):
            return self.size
        shorter = min(height, width)
        # Enlarging adds pixels to decode into and to send on, and nothing to see; models'
        # processors make the size that they need by themselves.
        if self.size is None or shorter <= self.size:
            return height, width
        scale = self.size / shorter
        return max(self.size, round(height * scale)), max(self.size, round(width * scale))


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{name}` holds {value!r}; give whole numbers from 1")
