"""The public face: a path in, a few frames out."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.video.backends import (
    BACKENDS,
    STILLS,
    Backend,
    find_backend,
    load,
    require_installed,
)
from linkedout_lightning.video.files import is_image
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.isolation import DecoderProcess
from linkedout_lightning.video.settings import MAX_PIXELS, DecodeSettings


@dataclass(frozen=True)
class FrameSampler:
    """Take ``frames`` frames of a video, evenly over its time.

    ``uniform`` takes the frame that is shown at each of the instants ``(i + 0.5) / frames`` of
    the duration, by presentation times and exactly, for constant and variable rates alike. A
    video with fewer frames repeats some. Times come from the packets; what the container's header
    says about counts and durations is not believed, and what an edit list hides is not shown.

    Pixels are upright (rotation and mirroring by metadata applied), RGB, and have FFmpeg's own
    colours bit for bit. Resizing is bicubic, anti-aliased; pixels are taken as square, HDR is not
    tone-mapped, and interlaced frames are not woven apart.

    Damaged packets are stepped over: as long as one frame decodes there is a result, in which the
    frame before a lost one stands in for it.

    A still image (``.jpg``, ``.jpeg``, ``.png``, ``.webp``, ``.bmp``) is one frame, whatever
    ``frames`` and ``backend`` say: upright by its EXIF tag, transparency on white, resized alike.

    Untrusted files: decoding runs in one persistent worker process, with a limit of time and of
    memory, whose crash or hang costs that video only. ``DecodePool`` does it in many.

    Args:
        frames: Number of frames ``T``.
        size: ``None`` keeps the video's size; an int is the most that the shorter side may have:
            larger videos are shrunk to it with their aspect ratio, smaller ones keep their size;
            ``(height, width)`` is exact.
        backend: ``auto`` and ``pyav`` are PyAV. ``decord`` and ``torchcodec`` decode what they
            decode exactly; PyAV does the rest, and ``Frames.fallback_reason`` says why.
            ``package.module:function`` is a decoder of your own, called in the worker with a path
            and a ``DecodeSettings``.
        strategy: ``uniform``.
        timeout_s: Seconds that one video may take; with a backend that falls back, each of both.
        memory_mb: MiB that decoding one video may take beyond the decoder's own code.
        max_pixels: Largest width x height that is decoded, and that a result may have.
        isolate: False decodes PyAV within the caller's process, without the two limits: a little
            faster, for files that you trust.

    Raises:
        ConfigError: If an argument is not usable.
        MissingExtraError: If the backend is not installed.

    Example:
        >>> FrameSampler(frames=4, size=(224, 224)).fingerprint()["frames"]
        4
    """

    frames: int = 8
    size: int | tuple[int, int] | None = None
    backend: str = "auto"
    strategy: str = "uniform"
    _: KW_ONLY
    timeout_s: float = 60.0
    memory_mb: int = 4096
    max_pixels: int = MAX_PIXELS
    isolate: bool = True

    def __post_init__(self) -> None:
        if self.strategy != "uniform":
            raise ConfigError(f"`strategy` is {self.strategy!r}; give 'uniform'")
        for name in ("timeout_s", "memory_mb"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"`{name}` is {getattr(self, name)!r}; give a positive number")
        # A list, as YAML gives it, would make the sampler unhashable.
        object.__setattr__(self, "size", self.settings.size)
        if self.resolved_backend.always_isolated and not self.isolate:
            raise ConfigError(
                f"`isolate` is False, but {self.backend} is known to hang or crash; "
                "leave it True, or give backend='pyav'"
            )

    @cached_property
    def settings(self) -> DecodeSettings:
        """What the decoder is told."""
        return DecodeSettings(frames=self.frames, size=self.size, max_pixels=self.max_pixels)

    @cached_property
    def resolved_backend(self) -> Backend:
        """The backend that ``backend`` names."""
        return find_backend(self.backend)

    def __call__(self, path: str | os.PathLike[str]) -> Frames:
        """Decode one video.

        Raises:
            VideoDecodeError: If it yields no frames, with the reason.
        """
        name = os.fsdecode(path)
        backend, settings = self.decoding_of(name)
        if not self.isolate:
            return load(backend.function)(name, settings)
        return self._worker().decode(name, backend, settings)

    def decoding_of(self, path: str) -> tuple[Backend, DecodeSettings]:
        """Which decoder a file goes to and what it is told, by the file's name.

        Raises:
            MissingExtraError: If the file is an image and Pillow is not installed.
        """
        if not is_image(path):
            return self.resolved_backend, self.settings
        return self._stills

    @cached_property
    def _stills(self) -> tuple[Backend, DecodeSettings]:
        require_installed(STILLS, "decoding still images")
        return STILLS, replace(self.settings, frames=1)

    def new_worker(self) -> DecoderProcess:
        """A decoding process with this sampler's limits, not yet started."""
        return DecoderProcess(timeout_s=self.timeout_s, memory_mb=self.memory_mb)

    def fingerprint(self, *, images: bool = False) -> dict[str, Any]:
        """What decides the pixels, as JSON-able values: two equal ones give equal frames.

        Args:
            images: Whether still images are decoded too; then their decoder is named beside.
        """
        backend = self.resolved_backend
        names = {
            *backend.packages,
            *(BACKENDS[backend.fallback].packages if backend.fallback else ()),
        }
        if images:
            names |= set(STILLS.packages)
        return {
            "frames": self.frames,
            "size": _named(self.size),
            "strategy": self.strategy,
            "backend": backend.name,
            **({"images": STILLS.name} if images else {}),
            "versions": {name: _version(name) for name in sorted(names)},
        }

    def _worker(self) -> DecoderProcess:
        worker: DecoderProcess | None = self.__dict__.get("_own_worker")
        # After a fork the parent's worker is the parent's; a copy of its pipes would mix answers.
        if worker is None or worker.owner != os.getpid():
            worker = self.__dict__["_own_worker"] = self.new_worker()
        return worker

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _named(size: int | tuple[int, int] | None) -> list[int] | str | None:
    """A size for the fingerprint; in words where a bare number once stood for an exact side."""
    if isinstance(size, int):
        return f"shorter side at most {size}"
    return list(size) if size is not None else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
