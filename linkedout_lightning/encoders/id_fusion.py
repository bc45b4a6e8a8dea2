r"""How an item's own learned vector joins its content vector.

Letters: B items, H item vector size. Each maps ``content (B, H)`` and ``ids (B, H)`` to
``(B, H)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError

ID_FUSIONS = ("none", "add", "concat", "gate")


class AddIDs(nn.Module):
    """:math:`c + i`."""

    def forward(self, content: Tensor, ids: Tensor) -> Tensor:
        """``(B, H)`` and ``(B, H)`` to ``(B, H)``."""
        return content + ids


class ConcatIDs(nn.Module):
    """:math:`W [c; i] + b`, beginning as ``add`` (W is two identities side by side).

    ShortRec finds it far better than a scalar gate, which put .94 to .99 on the ID.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(dim).repeat(1, 2))
            self.linear.bias.zero_()

    def forward(self, content: Tensor, ids: Tensor) -> Tensor:
        """``(B, H)`` and ``(B, H)`` to ``(B, H)``."""
        joined: Tensor = self.linear(torch.cat([content, ids], dim=-1))
        return joined


class GateIDs(nn.Module):
    r""":math:`g \odot i + (1 - g) \odot c` with :math:`g = \sigma(W [c; i] + b)` in (0, 1)^H."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim, dim)
        nn.init.zeros_(self.linear.bias)

    def forward(self, content: Tensor, ids: Tensor) -> Tensor:
        """``(B, H)`` and ``(B, H)`` to ``(B, H)``."""
        gate = torch.sigmoid(self.linear(torch.cat([content, ids], dim=-1)))
        return torch.lerp(content, ids, gate)


def build_id_fusion(name: str, dim: int) -> nn.Module | None:
    """The ID fusion of that name; None for ``none``.

    Raises:
        ConfigError: An unknown name.
    """
    if name == "none":
        return None
    if name == "add":
        return AddIDs()
    if name == "concat":
        return ConcatIDs(dim)
    if name == "gate":
        return GateIDs(dim)
    raise ConfigError(f"`id_fusion` is {name!r}; give one of {', '.join(ID_FUSIONS)}")
