"""``linkedout inspect``: what a feature store or a video file holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError

_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look at one thing.

    Args:
        path: Folder of a feature store, or a video file.
        sample: Most items whose features are read for the statistics of a store.
    """

    path: str
    sample: int = _SAMPLE


@dataclass(frozen=True)
class Inspection:
    """What was found, as a nested mapping."""

    kind: str
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The facts with their kind."""
        return {"kind": self.kind, **self.facts}

    def summary(self) -> str:
        """The facts for people, one a line."""
        return "\n".join([self.kind, *_lines(self.facts, indent=2)])


def inspect(config: InspectConfig, *, progress: bool = True) -> Inspection:
    """Find out what ``config.path`` is and describe it.

    Args:
        config: What to look at.
        progress: Unused; every command takes it.

    Returns:
        Specification, counts and statistics by layer of a store, or streams of a video.

    Raises:
        ConfigError: Nothing is there.
        StoreError: The folder is no feature store.
        VideoDecodeError: The file is no video.
    """
    del progress
    path = Path(config.path)
    if path.is_dir():
        return Inspection("feature store", _store_facts(path, config.sample))
    if not path.exists() and not path.is_symlink():
        raise ConfigError(f"`path` is {config.path!r}, but there is no such file or folder")
    from linkedout_lightning.video import probe_video

    facts = probe_video(path)
    described = asdict(facts) if is_dataclass(facts) else dict(vars(facts))
    return Inspection("video", described)


def _store_facts(path: Path, sample: int) -> dict[str, Any]:
    from linkedout_lightning.store import FeatureStore

    store = FeatureStore.open(path)
    item_ids = store.item_ids
    facts: dict[str, Any] = {
        "path": str(path),
        "items": len(item_ids),
        "failures": len(store.failures),
        "failure reasons": dict(Counter(store.failures.values()).most_common(10)),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "spec": store.spec.to_json(),
    }
    if item_ids:
        step = max(1, len(item_ids) // sample)
        features, mask = store.get(item_ids[::step][:sample])
        facts["layers"] = layer_statistics(features, mask, store.spec.layers)
        facts["slots"] = {
            slot: f"{share:.1%} of the items"
            for slot, share in zip(store.spec.slots, mask.float().mean(0).tolist(), strict=True)
        }
    return facts


def layer_statistics(
    features: Tensor, mask: Tensor, layers: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """Norms and cosines of the items' vectors, by layer.

    Args:
        features: Stored features, ``(n, L, S, D)``.
        mask: Which slots hold something, bool ``(n, S)``.
        layers: Names of the ``L`` layers.

    Returns:
        For each layer the mean norm, the mean cosine between two different items (0.8 and more is
        usual before whitening) and the share of items whose vector equals another item's.
    """
    weight = mask.float()[:, None, :, None]  # (n, 1, S, 1)
    pooled = (features.float() * weight).sum(2) / weight.sum(2).clamp(min=1)  # (n, L, D)
    result = {}
    for index, layer in enumerate(layers):
        vectors = pooled[:, index]
        count = len(vectors)
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        total = unit.sum(0).square().sum() - unit.square().sum()
        distinct = len(torch.unique(vectors, dim=0))
        result[f"layer {layer}"] = {
            "mean norm": round(vectors.norm(dim=-1).mean().item(), 4),
            "mean cosine": round((total / max(1, count * (count - 1))).item(), 4),
            "duplicates": round(1 - distinct / count, 4),
        }
    return result


def _lines(value: dict[str, Any], *, indent: int) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{'':{indent}}{key}:", *_lines(item, indent=indent + 2)]
        else:
            lines.append(f"{'':{indent}}{key}: {item}")
    return lines
