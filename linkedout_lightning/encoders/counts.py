"""Parameter counts, which a fair comparison states beside its figures."""

from __future__ import annotations

from torch import nn


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """Trainable parameters by top-level part.

    Args:
        module: Any module.

    Returns:
        A count for each child that has any, ``own`` for parameters of the module itself, and
        ``total``; a shared parameter counts once, where it is met first.

    Example:
        >>> parameter_counts(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
        {'0': 8, '2': 3, 'total': 11}
    """
    counts: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            part = name.split(".", 1)[0] if "." in name else "own"
            counts[part] = counts.get(part, 0) + parameter.numel()
    counts["total"] = sum(counts.values())
    return counts
