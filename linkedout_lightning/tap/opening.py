"""From an extraction's options to a tap on its device."""

from __future__ import annotations

from typing import Any

import torch

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.loading import Loaded, load_pretrained
from linkedout_lightning.tap.outline import outline_pretrained
from linkedout_lightning.tap.tap import VideoLLMTap
from linkedout_lightning.tap.windows import join_windows


def open_tap(config: ExtractConfig, *, progress: bool = True) -> VideoLLMTap:
    """Load the model that ``config`` names, on its device.

    Args:
        config: What to load.
        progress: Show the bars that loading draws.

    Raises:
        ConfigError: Model, layers, groups, prompt or device are not usable.
        MissingExtraError: transformers is not installed.
    """
    loaded = load_pretrained(
        config.model,
        revision=config.revision,
        dtype=config.dtype,
        device_map=config.device_map,
        attn_implementation=config.attention,
        gguf_file=config.gguf_file,
        trust_remote_code=config.trust_remote_code,
        progress=progress,
    )
    join_windows(loaded.model)
    tap = _tap(config, loaded)
    if config.device_map is not None:
        return tap  # accelerate has put its parts where they belong
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return tap.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"`device` is {config.device!r}, which is of no use: {error}") from error


def outline_tap(
    config: ExtractConfig, *, progress: bool = True, strict: bool = False
) -> VideoLLMTap | None:
    """The tap of :func:`open_tap` without weights: it has a fingerprint and cannot extract.

    Args:
        config: What to outline.
        progress: Let downloading draw its bars.
        strict: Let errors be told.

    Returns:
        None where the model must be loaded to know, or where loading has something to complain of.
    """
    if config.gguf_file is not None:
        return None
    try:
        loaded = outline_pretrained(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
            progress=progress,
        )
        return None if loaded is None else _tap(config, loaded)
    except Exception:
        if strict:
            raise
        # This is a short cut: whatever stands in its way, the long way tells what it is.
        return None


def _tap(config: ExtractConfig, loaded: Loaded) -> VideoLLMTap:
    only_reads = not hasattr(loaded.processor, "tokenizer")
    asked: dict[str, Any] = {
        "groups": config.groups or (("text", "last") if only_reads else ("visual", "text", "last")),
        "prompt": config.prompt,
    }
    if config.views:
        asked = {"views": config.views, "share_prefix": config.share_prefix}
    return VideoLLMTap(
        loaded.model,
        processor=loaded.processor,
        layers=config.layers,
        **asked,
        frames=config.frames,
        compile=config.compile,
        model_name=loaded.name,
        revision=loaded.revision,
    )
