"""The sequence encoder of a bundle: rebuilt from its name, its options and its weights.

``B`` batch, ``M`` inputs, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.sequence.backbones import last_state
from linkedout_lightning.sequence.gru4rec import GRU4Rec
from linkedout_lightning.sequence.nextitnet import NextItNet
from linkedout_lightning.sequence.sasrec import SASRec
from linkedout_lightning.serving.recbole_models import RecBoleGRU4Rec, RecBoleSASRec

KINDS: dict[str, Callable[..., nn.Module]] = {
    "sasrec": lambda dim, max_len, **o: SASRec(dim, max_len=max_len, dense=True, **o),
    "gru4rec": lambda dim, max_len, **o: GRU4Rec(dim, **o),  # noqa: ARG005
    "nextitnet": lambda dim, max_len, **o: NextItNet(dim, dense=True, **o),  # noqa: ARG005
    "recbole-sasrec": lambda dim, max_len, **o: RecBoleSASRec(dim, max_len=max_len, **o),
    "recbole-gru4rec": lambda dim, max_len, **o: RecBoleGRU4Rec(dim, **o),  # noqa: ARG005
}


class LastState(nn.Module):
    """What a ranking needs of a sequence model, and what is exported of it.

    Args:
        backbone: From ``(B, M, H)`` and ``(B, M)`` to ``(B, M, H)``.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """State of the last position.

        Args:
            vectors: ``(B, M, H)`` float32, left-padded.
            mask: ``(B, M)`` bool, True at items.

        Returns:
            ``(B, H)``; zero for a sequence without an item.
        """
        return last_state(self.backbone, vectors, mask) * mask[:, -1:]


def build(
    kind: str,
    *,
    dim: int,
    max_len: int,
    options: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
) -> LastState:
    """A sequence encoder in evaluation mode.

    Args:
        kind: One of :data:`KINDS`.
        dim: H.
        max_len: Longest input.
        options: Further arguments of its class.
        state: Its weights; None: as it is initialised.

    Raises:
        ConfigError: An unknown kind, or options or weights that do not fit it.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no sequence encoder {kind!r}; one of {', '.join(KINDS)}")
    try:
        backbone = KINDS[kind](dim, max_len, **options)
        if state is not None:
            backbone.load_state_dict(dict(state))
    except (TypeError, RuntimeError) as error:
        words = " ".join(str(error).split())[:300]
        raise ConfigError(f"the sequence encoder {kind!r} does not fit: {words}") from None
    return LastState(backbone).eval().requires_grad_(False)


def describe(backbone: nn.Module) -> tuple[str, dict[str, Any]]:
    """Kind and options from which :func:`build` makes a backbone again.

    Raises:
        ConfigError: It is a class of the caller's own.
    """
    if type(backbone) is SASRec:
        blocks: Any = backbone.blocks
        return "sasrec", {"blocks": len(blocks), "heads": blocks[0].heads}
    if type(backbone) is GRU4Rec:
        return "gru4rec", {"hidden": backbone.gru.hidden_size, "layers": backbone.gru.num_layers}
    if type(backbone) is NextItNet:
        blocks = list(backbone.blocks)
        dilations = [int(block.first.dilation) for block in blocks]
        return "nextitnet", {
            "blocks": 1, "dilations": dilations, "kernel": int(blocks[0].first.kernel),
        }  # fmt: skip
    raise ConfigError(
        f"the sequence model is a {type(backbone).__name__}, which a bundle cannot rebuild without "
        "running code; export one of sasrec, gru4rec and nextitnet"
    )
