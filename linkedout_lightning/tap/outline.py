"""A model's structure without its weights: enough to know what its features would be called."""

from __future__ import annotations

from typing import Any

import torch

from linkedout_lightning.tap.anatomy import reading_part
from linkedout_lightning.tap.loading import (
    Loaded,
    auto_class,
    identity,
    load_config,
    load_processor,
)
from linkedout_lightning.tap.progress import bars_of_transformers


def outline_pretrained(
    name_or_path: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Loaded | None:
    """What :func:`load_pretrained` gives, with weights that take no memory and hold no values.

    Name, revision, structure, numeric settings and processor are those of the loaded model. A 7B
    model takes about two seconds, and the digest of its files what it always does.

    Args:
        name_or_path: Hub name, or a folder.
        revision: Branch, tag or commit on the hub.
        dtype: Name of a torch type; ``"auto"`` keeps the checkpoint's.
        attn_implementation: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``…
        trust_remote_code: Whether code from the repository may run.
        progress: Let downloading draw its progress bars.

    Returns:
        The outline, or None where only loading tells: the weights are quantized (their settings
        are completed on the way), or the configuration does not name their type.
    """
    import transformers

    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with bars_of_transformers(progress):
        config = load_config(transformers, name_or_path, where=where)
        kind = getattr(config, "dtype", None) if dtype == "auto" else dtype
        if kind is None or getattr(config, "quantization_config", None) is not None:
            return None
        auto = auto_class(transformers, config, name_or_path)
        options: dict[str, Any] = {"dtype": getattr(torch, str(kind).removeprefix("torch."))}
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        if trust_remote_code:
            options["trust_remote_code"] = True
        with torch.device("meta"):
            model = getattr(transformers, auto).from_config(config, **options)
        processor = load_processor(transformers, auto, name_or_path, where=where)
        return Loaded(reading_part(model), processor, *identity(name_or_path, None, revision))
