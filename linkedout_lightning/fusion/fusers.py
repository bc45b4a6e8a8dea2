r"""Cross-layer fusers: the experts' vectors of L layers become one item vector.

Each maps ``experts (L, B, H)`` to :class:`Fused`. :class:`MoEFuser` is the paper's Cross-Layer
Knowledge MoE Fuser, the others are the baselines that it has to beat.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion.stacked import StackedLinear

FUSERS = ("moe", "last", "layer:<k>", "mean", "concat", "weighted-sum", "dff", "mlp")


class Fused(NamedTuple):
    """What a fuser returns.

    Attributes:
        vectors: ``(B, H)``.
        weights: ``(B, L)``, the share of each layer, rows sum to 1; None where a fuser has none.
        dense: ``(B, L)``, the gate's probabilities before ``top_k``; None where there is no gate.
    """

    vectors: Tensor
    weights: Tensor | None
    dense: Tensor | None = None


def load_balance(weights: Tensor, dense: Tensor) -> Tensor:
    r""":math:`L \sum_l \bar w_l \bar p_l`: 1 for a balanced use of the layers, L for one alone.

    The auxiliary loss of Switch Transformers (arXiv 2101.03961, eq. 4) with the shares of the
    weight in place of counts.

    Args:
        weights: ``(B, L)`` weights in use.
        dense: ``(B, L)`` probabilities before ``top_k``; the same tensor without ``top_k``.

    Returns:
        A scalar.

    Example:
        >>> load_balance(torch.eye(2), torch.eye(2)).item()
        1.0
        >>> one = torch.tensor([[1.0, 0.0]])
        >>> load_balance(one, one).item()
        2.0
    """
    return weights.shape[1] * (weights.mean(0) * dense.mean(0)).sum()


def _mix(experts: Tensor, weights: Tensor) -> Tensor:
    return (experts * weights.T.unsqueeze(-1)).sum(0)


class MoEFuser(nn.Module):
    r"""A gate for each item: :math:`\sum_l g_l e_l`, :math:`g = \mathrm{softmax}(\ell/\tau)`.

    :math:`\ell = W_g[\mathrm{LN}\,e_1; …; \mathrm{LN}\,e_L] + b_g`. With ``top_k`` the other
    layers' weights are zero and the kept ones sum to 1.

    Args:
        layers: L.
        dim: H.
        top_k: How many layers an item uses; None or L: all.
        temperature: τ.

    Raises:
        ConfigError: ``top_k`` not in 1..L, or ``temperature`` not above 0.

    Example:
        >>> fused = MoEFuser(layers=4, dim=8, top_k=2)(torch.randn(4, 5, 8))
        >>> fused.vectors.shape, (fused.weights > 0).sum(1).tolist()
        (torch.Size([5, 8]), [2, 2, 2, 2, 2])
    """

    def __init__(
        self, *, layers: int, dim: int, top_k: int | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if top_k is not None and not 1 <= top_k <= layers:
            raise ConfigError(
                f"`top_k` is {top_k}; give 1 to {layers} (the number of layers), or None for all"
            )
        if not temperature > 0:
            raise ConfigError(f"`temperature` is {temperature}; give a number above 0")
        self.top_k = None if top_k == layers else top_k
        self.temperature = temperature
        # Small but not zero: equal logits would give `top_k` the same layers for every item.
        self.gate = StackedLinear(layers, dim, layers, bias=False, gain=0.2)
        self.bias = nn.Parameter(torch.zeros(layers))

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to the vectors, the weights used and the dense ones."""
        normed = nn.functional.layer_norm(experts, experts.shape[-1:])
        logits = (self.gate(normed).sum(0) + self.bias) / self.temperature  # (B, L)
        dense = weights = logits.softmax(-1)
        if self.top_k is not None:
            kept = torch.zeros_like(logits, dtype=torch.bool)
            kept = kept.scatter(1, logits.topk(self.top_k, dim=1).indices, True)
            weights = logits.masked_fill(~kept, -torch.inf).softmax(-1)
        return Fused(_mix(experts, weights), weights, dense)


class SingleLayer(nn.Module):
    """The one expert that there is, for ``last`` and ``layer:<k>``: no parameter."""

    def forward(self, experts: Tensor) -> Fused:
        """``(1, B, H)`` to ``(B, H)`` with weight 1."""
        return Fused(experts[0], experts.new_ones(experts.shape[1], 1))


class MeanFuser(nn.Module):
    """The mean over layers: no parameter."""

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to ``(B, H)`` with equal weights."""
        layers, batch, _ = experts.shape
        return Fused(experts.mean(0), experts.new_full((batch, layers), 1 / layers))


class ConcatFuser(nn.Module):
    """A linear map of all layers' vectors side by side; it has no weight a layer."""

    def __init__(self, *, layers: int, dim: int) -> None:
        super().__init__()
        self.linear = StackedLinear(layers, dim, dim, bias=False, gain=layers**-0.5)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to ``(B, H)``."""
        # One product of each layer, summed, is the product of the concatenation.
        return Fused(self.linear(experts).sum(0) + self.bias, None)


class WeightedSumFuser(nn.Module):
    """A softmax over one scalar a layer, the same for all items (ELMo's scalar mix)."""

    def __init__(self, *, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to ``(B, H)`` with the same weights in each row."""
        weights = self.logits.softmax(0).expand(experts.shape[1], -1)
        return Fused(_mix(experts, weights), weights)


class DFFFuser(nn.Module):
    """Weighted sum, linear, ReLU: DFF (arXiv 2512.21863) up to its ID gate, which is ID fusion.

    DFF sums the raw hidden states; here the experts' vectors are summed, as in every other fuser,
    so that two rows of a comparison differ in the fusion alone.
    """

    def __init__(self, *, layers: int, dim: int) -> None:
        super().__init__()
        self.mix = WeightedSumFuser(layers=layers)
        self.linear = nn.Linear(dim, dim)

    def forward(self, experts: Tensor) -> Fused:
        """``(L, B, H)`` to ``(B, H)``, no coordinate negative."""
        mixed = self.mix(experts)
        return Fused(nn.functional.relu(self.linear(mixed.vectors)), mixed.weights)


def single_layer(name: str, layers: tuple[int, ...]) -> int | None:
    """Position on the L axis that the fuser ``name`` is bound to, None if it wants all layers.

    Args:
        name: A fuser's name.
        layers: Names of the L axis.

    Raises:
        ConfigError: ``layer:<k>`` with a ``k`` that is not among ``layers``.

    Example:
        >>> single_layer("layer:16", (8, 16, 24)), single_layer("last", (8, 16, 24))
        (1, 2)
        >>> single_layer("moe", (8, 16, 24)) is None
        True
    """
    if name == "last":
        return max(range(len(layers)), key=lambda position: layers[position])
    match = re.fullmatch(r"layer:(-?\d+)", name)
    if match is None:
        return None
    if int(match[1]) not in layers:
        raise ConfigError(
            f"`fuser` is {name!r}, but the features hold the layers {', '.join(map(str, layers))}"
        )
    return layers.index(int(match[1]))


def build_fuser(
    name: str, *, layers: int, dim: int, top_k: int | None = None, temperature: float = 1.0
) -> nn.Module:
    """The fuser of that name.

    Args:
        name: One of :data:`FUSERS`.
        layers: L; 1 for ``last`` and ``layer:<k>``, whose layer is picked before.
        dim: H.
        top_k: For ``moe``.
        temperature: For ``moe``.

    Raises:
        ConfigError: An unknown name, or an argument that the fuser refuses.
    """
    if name != "moe" and top_k is not None:
        raise ConfigError(f"`top_k` is {top_k}, but the fuser {name!r} has no gate; only 'moe' has")
    if name == "moe":
        return MoEFuser(layers=layers, dim=dim, top_k=top_k, temperature=temperature)
    if name == "mean":
        return MeanFuser()
    if name == "concat":
        return ConcatFuser(layers=layers, dim=dim)
    if name == "weighted-sum":
        return WeightedSumFuser(layers=layers)
    if name == "dff":
        return DFFFuser(layers=layers, dim=dim)
    if name == "last" or re.fullmatch(r"layer:-?\d+", name):
        return SingleLayer()
    raise ConfigError(f"`fuser` is {name!r}; give one of {', '.join(FUSERS)}")
