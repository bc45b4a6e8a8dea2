r"""The control of equal parameters: one MLP over all layers' tokens, without experts or a gate.

Letters: L layers, B items, S slots, R whitened rank, H item vector size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion.compressors import build_compressor
from linkedout_lightning.fusion.fusers import Fused, build_fuser


class WideMLP(nn.Module):
    r""":math:`W_2\,\mathrm{GELU}(W_1 [z_{1,1}; …; z_{L,S}] + b_1) + b_2`, a masked token zero.

    It sees all that the experts and their gate see, and knows nothing of layers and slots.

    Args:
        layers: L.
        slots: S.
        features: R.
        dim: H.
        hidden: Width between the two maps.
        dropout: Share of hidden units dropped in training.

    Raises:
        ConfigError: ``hidden`` below 1.

    Example:
        >>> mlp = WideMLP(layers=3, slots=2, features=16, dim=8, hidden=5)
        >>> mlp(torch.randn(3, 4, 2, 16), torch.ones(4, 2, dtype=torch.bool)).shape
        torch.Size([1, 4, 8])
    """

    def __init__(
        self, *, layers: int, slots: int, features: int, dim: int, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ConfigError(f"`hidden` is {hidden}; give at least 1")
        inputs = layers * slots * features
        self.inner, self.outer = nn.Linear(inputs, hidden), nn.Linear(hidden, dim)
        self.dropout = dropout
        with torch.no_grad():
            # As the experts start: outputs of about unit variance for whitened tokens. GELU
            # passes on 0.43 of a unit variance.
            self.inner.weight.normal_(std=inputs**-0.5)
            self.outer.weight.normal_(std=(0.43 * hidden) ** -0.5)
            # Not zero: an item without any token has nothing but the biases.
            self.inner.bias.normal_(std=0.1)
            self.outer.bias.normal_(std=0.1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(L, B, S, R)`` and mask ``(B, S)`` to ``(1, B, H)``, as of one layer."""
        if mask is not None:
            tokens = tokens * mask[:, :, None].to(tokens.dtype)
        joined = tokens.transpose(0, 1).flatten(1)  # (B, L * S * R)
        x = nn.functional.gelu(self.inner(joined))
        if self.dropout:
            x = nn.functional.dropout(x, self.dropout, self.training)
        vectors: Tensor = self.outer(x)
        return vectors.unsqueeze(0)


class OneVector(nn.Module):
    """What stands in the fuser's place where the layers are one vector already."""

    def forward(self, experts: Tensor) -> Fused:
        """``(1, B, H)`` to ``(B, H)``, without a weight a layer."""
        return Fused(experts[0], None)


def build_fusion(
    compressor: str,
    fuser: str,
    *,
    layers: int,
    slots: int,
    features: int,
    dim: int,
    top_k: int | None = None,
    temperature: float = 1.0,
    dropout: float = 0.0,
    **options: object,
) -> tuple[nn.Module, nn.Module]:
    """A compressor and a fuser by their names.

    The fuser ``mlp`` replaces both: it is as wide as gives it, to half a hidden unit, the
    parameters that this compressor with the fuser ``moe`` has.

    Args:
        compressor: A name of :data:`~linkedout_lightning.fusion.COMPRESSORS`.
        fuser: A name of :data:`~linkedout_lightning.fusion.FUSERS`.
        layers: L.
        slots: S.
        features: R.
        dim: H.
        top_k: For ``moe``.
        temperature: For ``moe``.
        dropout: Dropout inside the experts, or inside the MLP.
        **options: Further ones of :func:`~linkedout_lightning.fusion.build_compressor`.

    Raises:
        ConfigError: An unknown name, or an argument that one of the two refuses.

    Example:
        >>> experts, gate = build_fusion("latent", "moe", layers=4, slots=2, features=64, dim=32)
        >>> wide, _ = build_fusion("latent", "mlp", layers=4, slots=2, features=64, dim=32)
        >>> sum(p.numel() for m in (experts, gate) for p in m.parameters())
        21764
        >>> sum(p.numel() for p in wide.parameters())
        21832
    """
    sizes = {"layers": layers, "slots": slots, "features": features, "dim": dim}
    built: dict[str, object] = {**sizes, "dropout": dropout, **options}
    if fuser != "mlp":
        return (
            build_compressor(compressor, **built),  # type: ignore[arg-type]
            build_fuser(fuser, layers=layers, dim=dim, top_k=top_k, temperature=temperature),
        )
    if top_k is not None:
        raise ConfigError(f"`top_k` is {top_k}, but the fuser 'mlp' has no gate; only 'moe' has")
    with torch.device("meta"):
        replaced = (
            build_compressor(compressor, **built),  # type: ignore[arg-type]
            build_fuser("moe", layers=layers, dim=dim),
        )
    count = sum(p.numel() for module in replaced for p in module.parameters())
    hidden = (count - dim) / (math.prod((layers, slots, features)) + 1 + dim)
    return WideMLP(**sizes, hidden=max(1, round(hidden)), dropout=dropout), OneVector()
