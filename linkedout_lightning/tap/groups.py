"""Token groups: which tokens are averaged into which slot.

Letters: S slots, P tokens of the prefill, V visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError

_LEGAL = '"visual", "visual:8", "text", "title", "last", "generated:16"'
_PLAIN = ("visual", "text", "title", "last")
_COUNTED = ("visual", "generated")
_MOST = 4096  # a slip of the keyboard should not allocate a slot for each


@dataclass(frozen=True)
class Group:
    """One token group.

    Attributes:
        kind: ``visual``, ``text``, ``title``, ``last`` or ``generated``.
        count: Spans of ``visual:n``, tokens of ``generated:n``, else 1.
        name: As the user wrote it.
    """

    kind: str
    count: int
    name: str

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots that the group fills."""
        if self.kind == "visual" and self.name != "visual":
            return tuple(f"{self.name}/{span}" for span in range(self.count))
        return (self.name,)


def parse_groups(groups: Sequence[str]) -> tuple[Group, ...]:
    """Read group names.

    Raises:
        ConfigError: For an unknown or repeated group, a bad count, or none at all.

    Example:
        >>> [slot for group in parse_groups(["visual:2", "last"]) for slot in group.slots]
        ['visual:2/0', 'visual:2/1', 'last']
    """
    if isinstance(groups, str) or not groups:
        raise ConfigError(f"`groups` is {groups!r}; give a list of one or more of {_LEGAL}")
    parsed = tuple(_parse(name) for name in groups)
    for group in parsed:
        if sum(other.name == group.name for other in parsed) > 1:
            raise ConfigError(f"`groups` holds {group.name!r} twice; give each group once")
    if sum(group.kind == "generated" for group in parsed) > 1:
        raise ConfigError(
            f"`groups` = {list(groups)} holds several lengths of generated text; give one"
        )
    return parsed


def _parse(name: str) -> Group:
    kind, colon, count = str(name).partition(":")
    if not colon and kind in _PLAIN:
        return Group(kind, 1, kind)
    if colon and kind in _COUNTED and count.isascii() and count.isdigit():
        if not 1 <= int(count) <= _MOST:
            raise ConfigError(
                f"`groups` holds {name!r}; the count after the colon is from 1 to {_MOST}"
            )
        return Group(kind, int(count), f"{kind}:{int(count)}")
    raise ConfigError(f"`groups` holds {name!r}; the groups are {_LEGAL} (any count)")


def average(chosen: Tensor) -> Tensor:
    """Weights that average the chosen tokens: bool ``(P,)`` to float32 ``(P,)``."""
    return chosen.float() / max(int(chosen.sum()), 1)


def span_averages(chosen: Tensor, *, spans: int, steps: int) -> Tensor:
    """Weights that average visual tokens within equal spans of time.

    The V visual tokens, in their order, cover ``steps`` equal steps of time (frames, or merged
    pairs of them). A span averages the steps that it covers, each by the share of it covered, so
    any number of spans is well defined: spans that are shorter than a step repeat it. Where V is
    no multiple of ``steps`` (a separator token, pruned tokens) each token is a step of its own.

    Args:
        chosen: Bool ``(P,)``, the visual tokens.
        spans: How many spans.
        steps: How many steps of time the tokens cover.

    Returns:
        Float32 ``(spans, P)``; zero without visual tokens.
    """
    tokens = int(chosen.sum())
    weights = torch.zeros(spans, len(chosen))
    if not tokens:
        return weights
    if steps < 1 or tokens % steps:
        steps = tokens
    edges = torch.arange(spans + 1, dtype=torch.float64) / spans * steps
    start = torch.arange(steps, dtype=torch.float64)
    upper = torch.minimum(edges[1:, None], start + 1)
    covered = (upper - torch.maximum(edges[:-1, None], start)).clamp(min=0)  # (spans, steps)
    by_token = covered.repeat_interleave(tokens // steps, dim=1)  # (spans, V)
    weights[:, chosen] = (by_token / by_token.sum(dim=1, keepdim=True)).float()
    return weights


def pool(state: Tensor, weights: Tensor, *, sparse: bool = True) -> Tensor:
    """Average hidden states into slots.

    Args:
        state: Hidden states ``(b, P, D)`` of any floating type.
        weights: Float32 ``(b, S, P)``.
        sparse: Whether some tokens have no weight in any slot; only then their states, which may
            be infinite (the first token in half precision) or NaN (padding), are put aside.

    Returns:
        Float32 ``(b, S, D)``.
    """
    state = state.float()
    if sparse:
        used = (weights > 0).any(dim=1)  # (b, P)
        state = torch.where(used[..., None], state, 0.0)
    return weights @ state
