"""Small summaries of a finished cell: its memory, its parameters, its gates, its slices.

Letters: N items, L layers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.encoders import LinkedOutItemEncoder, parameter_counts
from linkedout_lightning.evaluation.metrics import RankingMetrics

_CHUNK = 4096


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    try:
        # getrusage's figure outlives exec: it would begin with the memory of the parent.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024**2 if sys.platform == "darwin" else 1024)


def peak_device_mb() -> float | None:
    """Largest memory allocated on the CUDA device, None without one."""
    return torch.cuda.max_memory_allocated() / 1024**2 if torch.cuda.is_available() else None


def count_parameters(encoder: nn.Module, backbone: nn.Module) -> dict[str, int]:
    """Trainable parameters by part; ``total`` is what the tables show."""
    parts = {f"encoder/{n}": c for n, c in parameter_counts(encoder).items() if n != "total"}
    parts["backbone"] = parameter_counts(backbone)["total"]
    return parts | {"total": sum(parts.values())}


def untrained(
    metrics: RankingMetrics, data: dict[str, Any], *, fit: float, evaluation: float
) -> dict[str, Any]:
    """What the cell of a rule without training says of itself.

    Args:
        metrics: Of the test, with ranks.
        data: Sizes of the data.
        fit: Seconds that the rule took to count.
        evaluation: Seconds of the test.
    """
    return {
        "flat": {name: float(value) for name, value in metrics.compute().items()},
        "ranks": metrics.ranks(),
        "parameters": 0,
        "parameters_by_part": {},
        "seconds_by_part": {"fit": fit, "evaluation": evaluation},
        "curve": [],
        "gates": None,
        "best_epoch": None,
        "data": data,
    }


def nest_slices(flat: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Split ``{"HR@10": …, "cold/HR@10": …}`` into the overall metrics and those of each slice.

    Example:
        >>> nest_slices({"HR@10": 0.1, "cold/HR@10": 0.0, "cold/users": 3.0})
        ({'HR@10': 0.1}, {'cold': {'HR@10': 0.0, 'users': 3}})
    """
    overall: dict[str, float] = {}
    slices: dict[str, dict[str, float]] = {}
    for name, value in flat.items():
        group, _, metric = name.rpartition("/")
        number = int(value) if metric == "users" else float(value)
        (slices.setdefault(group, {}) if group else overall)[metric] = number
    return overall, slices


def gate_summary(encoder: nn.Module, slices: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """How an encoder's gate shares items' vectors among the layers.

    Args:
        encoder: An item encoder.
        slices: Name to ``(N + 1,)`` bool of items.

    Returns:
        ``layers`` (names), ``mean`` and ``std`` over items for each layer, ``entropy`` (mean over
        items, 1 for an even share, 0 for one layer alone), ``slices`` (name to mean for each
        layer); None for an encoder without weights a layer, or with one layer.
    """
    if not isinstance(encoder, LinkedOutItemEncoder) or len(set(encoder.layers)) < 2:
        return None
    with torch.inference_mode():
        index = torch.arange(1, encoder.num_items + 1, device=encoder.scale.device)
        try:
            starts = range(0, encoder.num_items, _CHUNK)
            parts = [encoder.gates(index[start : start + _CHUNK]) for start in starts]
        except ValueError:  # a fuser without a weight a layer
            return None
    weights = torch.cat(parts).double().cpu()  # (N, L)
    entropy = (
        -(weights * weights.clamp(min=1e-12).log()).sum(1).mean()
        / torch.tensor(float(weights.shape[1])).log()
    )
    return {
        "layers": list(encoder.layers),
        "mean": weights.mean(0).tolist(),
        "std": weights.std(0).tolist(),
        "entropy": float(entropy),
        "slices": {
            name: weights[mask[1:].cpu()].mean(0).tolist()
            for name, mask in slices.items()
            if bool(mask[1:].any())
        },
    }
