"""A new video's features, made exactly as those that the model was trained on.

``n`` items, ``L`` layers, ``S`` slots, ``D`` LLM hidden size.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, StoreSpecError
from linkedout_lightning.store import StoreSpec

if TYPE_CHECKING:
    from linkedout_lightning.tap import VideoLLMTap
    from linkedout_lightning.video import FrameSampler


class VideoWatcher:
    """Runs the video LLM over single videos, with the settings of a store's specification.

    The model is loaded at the first use and kept. One video is watched at a time.

    Args:
        features: The specification, as a bundle carries it.
        model: Folder or hub name of the model; None: the name in the specification, which must then
            be a hub name or the small model that the package carries.
        device: cpu, cuda and so on, or auto.
    """

    def __init__(
        self, features: Mapping[str, Any], *, model: str | None = None, device: str = "auto"
    ) -> None:
        self.spec = StoreSpec.from_json(dict(features))
        self._model, self._device = model, device
        self._watching = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the prompts want, such as ``title``."""
        return tuple(self._tools[0].columns)

    def watch(
        self, videos: Sequence[str | os.PathLike[str]], columns: Sequence[Mapping[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """Features of videos.

        Args:
            videos: ``n`` files.
            columns: Texts of each for the prompt, such as ``{"title": ...}``.

        Returns:
            Features ``(n, L, S, D)`` float32, rounded as the store rounds them, and mask
            ``(n, S)`` bool.

        Raises:
            VideoDecodeError: A file yields no frames.
            ConfigError: The model cannot be named or loaded.
            StoreSpecError: The model is not the one of the training, or is run otherwise.
            MissingExtraError: A package for videos or models is missing.
        """
        from linkedout_lightning.tap import TapInput

        with self._watching:
            tap, sampler = self._tools
            items = [
                TapInput(os.fspath(video), frames=sampler(video), columns=dict(texts))
                for video, texts in zip(videos, columns, strict=True)
            ]
            output = tap.encode(items)
        if not bool(output.mask.any(1).all()):
            row = int((~output.mask.any(1)).nonzero()[0])
            raise DataError(f"the model got nothing to see or read of {items[row].item_id!r}")
        return output.features.to(self.spec.torch_dtype).float(), output.mask

    @cached_property
    def _tools(self) -> tuple[VideoLLMTap, FrameSampler]:
        from linkedout_lightning.tap.config import ExtractConfig
        from linkedout_lightning.tap.opening import open_tap
        from linkedout_lightning.tap.sink import store_spec
        from linkedout_lightning.video import FrameSampler

        spec = self.spec
        if not spec.sampler or any(v.get("sees") == "cover" for v in spec.views.values()):
            raise ConfigError(
                "the model of this bundle reads covers or texts and no videos alone; extract the "
                "new items' features with `linkedout extract` and add them from the store"
            )
        name, revision = self._named()
        config = ExtractConfig(
            model=name,
            out="",
            videos="",
            revision=revision,
            layers=spec.layers,
            groups=spec.groups or None,
            **({"prompt": spec.prompt} if not spec.views else {"views": spec.views}),
            frames=spec.sampler["frames"],
            size=_size(spec.sampler.get("size")),
            backend=spec.sampler["backend"],
            dtype=spec.extra.get("dtype", "auto"),
            store_dtype=spec.dtype,  # type: ignore[arg-type]
            attention=spec.extra.get("attention"),
            device=self._device,
        )
        tap = open_tap(config, progress=False)
        sampler = FrameSampler(frames=config.frames, size=config.size, backend=config.backend)
        here = store_spec(tap, sampler=sampler, dtype=spec.dtype)
        # A folder's name may change; its weights may not.
        differences = [d for d in spec.differences(here) if not d.startswith("model:")]
        if differences:
            raise StoreSpecError(
                f"{name!r} does not give the features that the bundle's model was trained on: "
                f"{'; '.join(differences)}; name the right model in `model`"
            )
        return tap, sampler

    def _named(self) -> tuple[str, str | None]:
        """The model's folder or hub name, and its revision there."""
        from linkedout_lightning.demo.model import WEIGHTS
        from linkedout_lightning.tap.identity import digest_of_files

        revision = self.spec.revision
        if self._model is not None:
            return self._model, None if Path(self._model).is_dir() else revision
        if not revision.startswith("sha256:"):
            return self.spec.model, revision
        if digest_of_files(WEIGHTS) == revision:
            return str(WEIGHTS), None
        raise ConfigError(
            f"the bundle's features are of a model in a folder called {self.spec.model!r}; name "
            "that folder in `model`"
        )


def _size(named: Any) -> int | tuple[int, int] | None:
    """A frame's size as a sampler takes it, from how its fingerprint has it."""
    if isinstance(named, str) and (found := re.search(r"\d+", named)):
        return int(found[0])
    return None if named is None else (int(named[0]), int(named[1]))
