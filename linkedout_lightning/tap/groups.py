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

    A span averages the steps of time that it covers, each by the share of it covered, so any
    number of spans is well defined: spans that are shorter than a step repeat it. A step counts
    by its time and not by its tokens, however many of them a model pruned (see `steps_of_time`).

    Args:
        chosen: Bool ``(P,)``, the visual tokens.
        spans: How many spans.
        steps: How many steps of time (frames, or merged pairs of them) the tokens cover.

    Returns:
        Float32 ``(spans, P)``; zero without visual tokens.
    """
    weights = torch.zeros(spans, len(chosen))
    if not chosen.any():
        return weights
    step = steps_of_time(chosen, steps=steps)
    tokens = torch.bincount(step[step >= 0])  # (steps,)
    edges = torch.arange(spans + 1, dtype=torch.float64) / spans * len(tokens)
    start = torch.arange(len(tokens), dtype=torch.float64)
    upper = torch.minimum(edges[1:, None], start + 1)
    covered = (upper - torch.maximum(edges[:-1, None], start)).clamp(min=0)  # (spans, steps)
    share = covered / covered.sum(dim=1, keepdim=True) / tokens
    placed = torch.where(step >= 0, share[:, step.clamp(min=0)], 0.0)  # (spans, V)
    weights[:, chosen] = placed.float()
    return weights


def steps_of_time(chosen: Tensor, *, steps: int) -> Tensor:
    """Which step of time each of the V visual tokens shows, in their order.

    - As many runs of visual tokens as steps: a run is a step, however long. So it is where time
      stamps or brackets stand between frames, also after static tokens were pruned.
    - An equal number of tokens a step, else; one token too many is a separator at the end (the
      newline of LLaVA-OneVision), which belongs to no time.
    - Any other number (tokens pruned within one run): each token is a step of its own, so that
      the spans hold equal numbers of tokens.

    Args:
        chosen: Bool ``(P,)``, the visual tokens, one at least.
        steps: How many steps of time they cover.

    Returns:
        Long ``(V,)``; -1 for a token of no time.
    """
    count = int(chosen.sum())
    before = torch.cat([chosen.new_zeros(1), chosen[:-1]])
    run = (chosen & ~before).cumsum(0)[chosen] - 1  # (V,)
    if int(run[-1]) + 1 == steps:
        return run
    position = torch.arange(count)
    if steps < 1 or steps > count or count % steps > 1:
        return position
    step = position // (count // steps)
    return torch.where(step < steps, step, -1)


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
