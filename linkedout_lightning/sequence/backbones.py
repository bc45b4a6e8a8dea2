"""What a sequence backbone is, and the ones that come with the package."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.sequence.gru4rec import GRU4Rec
from linkedout_lightning.sequence.nextitnet import NextItNet
from linkedout_lightning.sequence.sasrec import SASRec

BACKBONES = ("sasrec", "gru4rec", "nextitnet")


@runtime_checkable
class SequenceBackbone(Protocol):
    """Any module from item vectors to states.

    A backbone may also offer ``last_state(x, mask) -> (B, H)``, a cheaper way to the state of the
    last position, which is all that ranking needs.
    """

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, M, H)`` left-padded item vectors and ``(B, M)`` bool to states ``(B, M, H)``."""


def build_backbone(
    name: str, dim: int, *, max_len: int, dropout: float = 0.1, **options: Any
) -> nn.Module:
    """A backbone by name.

    Args:
        name: ``"sasrec"``, ``"gru4rec"`` or ``"nextitnet"``.
        dim: Size of item vectors and states.
        max_len: Longest input.
        dropout: Dropout inside the backbone.
        options: Further arguments of the backbone, such as ``blocks`` or ``hidden``.

    Raises:
        ConfigError: Unknown name or option.
    """
    if name not in BACKBONES:
        raise ConfigError(
            f"unknown backbone {name!r}; give one of {', '.join(BACKBONES)}, or a module with "
            "forward(x (B, M, H), mask (B, M)) -> (B, M, H)"
        )
    try:
        if name == "gru4rec":
            return GRU4Rec(dim, dropout=dropout, **options)
        if name == "nextitnet":
            return NextItNet(dim, dropout=dropout, **options)
        return SASRec(dim, max_len=max_len, dropout=dropout, **options)
    except TypeError as error:
        raise ConfigError(f"backbone {name!r} does not take these options: {error}") from error


def last_state(backbone: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """``(B, H)``: the last position's state, by the backbone's short way if it has one."""
    short = cast(Any, getattr(backbone, "last_state", None))
    if short is not None:
        return cast(Tensor, short(x, mask))
    states: Tensor = backbone(x, mask)
    return states[:, -1]
