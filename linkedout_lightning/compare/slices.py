"""Metrics by popularity of the target, and of all targets that training saw."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

COLD = "cold"
"""The slice of items that training never saw."""


def slice_mean(row: Mapping[str, Any], name: str, metric: str) -> float | None:
    """A metric of one slice, the mean over seeds; None if nobody asked for its items.

    Args:
        row: Of a comparison's summary.
        name: Of the slice.
        metric: Such as HR@10.
    """
    found = row["slices"].get(name, {}).get(metric)
    return float(found["mean"]) if found else None


def trained_mean(row: Mapping[str, Any], metric: str) -> float | None:
    """The same over all users whose target training saw.

    Example:
        >>> a = {"users": 30, "HR@10": {"mean": 0.2}}
        >>> b = {"users": 10, "HR@10": {"mean": 0.6}}
        >>> cold = {"users": 5, "HR@10": {"mean": 0.0}}
        >>> round(
        ...     trained_mean({"slices": {"decile_1": a, "decile_2": b, "cold": cold}}, "HR@10"), 6
        ... )
        0.3
    """
    parts = [
        (mean, part["users"])
        for name, part in row["slices"].items()
        if name != COLD and (mean := slice_mean(row, name, metric)) is not None
    ]
    users = sum(count for _, count in parts)
    return sum(mean * count for mean, count in parts) / users if users else None


def mean_choice(choices: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What the strengths of cold items' calibration gave on the validation, over the seeds.

    Args:
        choices: Of each seed, :meth:`linkedout_lightning.sequence.cold.ColdChoice.to_json`.

    Returns:
        ``k``, ``budget``, ``strengths``, mean HR of ``trained`` and of ``cold`` targets at each
        (the latter None without such targets), ``users`` of both and what each seed ``chosen``;
        None if no seed chose.
    """
    known = [choice for choice in choices if choice]
    if not known:
        return None

    def mean(part: str) -> list[float] | None:
        curves = [choice[part] for choice in known if choice[part] is not None]
        return [statistics.fmean(at) for at in zip(*curves, strict=True)] or None

    first = known[0]
    return {
        **{name: first[name] for name in ("k", "budget", "strengths")},
        "trained": mean("trained"),
        "cold": mean("cold"),
        "users": [first["trained_users"], first["cold_users"]],
        "chosen": [choice["strength"] for choice in known],
    }
