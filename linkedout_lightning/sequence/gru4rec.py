"""GRU4Rec as MicroLens builds it: dropout, then a gated recurrent unit without biases.

Hidasi et al., *Session-based Recommendations with Recurrent Neural Networks*, ICLR 2016.

``B`` batch, ``M`` sequence length, ``H`` item dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError


class GRU4Rec(nn.Module):
    """A recurrent network over a user's items.

    Left padding leaves no trace: without biases, a zero input on a zero state gives exactly a
    zero state, so each sequence starts from zero at its first item, however far padded.

    Args:
        dim: Size of item vectors and of the states given back, ``H``.
        hidden: Size of the recurrent state, by default ``dim``; another size is projected back
            to ``dim`` by a linear map without bias.
        layers: Recurrent layers.
        dropout: On the input, and between layers.

    Example:
        >>> import torch
        >>> x, mask = torch.randn(2, 3, 8), torch.tensor([[False, True, True], [True] * 3])
        >>> GRU4Rec(8, hidden=16)(x, mask).shape
        torch.Size([2, 3, 8])
    """

    def __init__(
        self, dim: int, *, hidden: int | None = None, layers: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        if dim < 1 or hidden < 1 or layers < 1:
            raise ConfigError(
                f"`dim`, `hidden` and `layers` must be positive, got {dim}, {hidden}, {layers}"
            )
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(
            dim,
            hidden,
            layers,
            bias=False,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.project = nn.Identity() if hidden == dim else nn.Linear(hidden, dim, bias=False)
        for name, weight in self.gru.named_parameters():
            for gate in weight.chunk(3):
                # The usual pair: variance-keeping on inputs, norm-keeping on the recurrence.
                (nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_)(gate)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States at every position.

        Args:
            x: ``(B, M, H)`` item vectors, left-padded.
            mask: ``(B, M)`` bool, true at items.

        Returns:
            ``(B, M, H)``, zero at padding.
        """
        states, _ = self.gru(self.dropout(x * mask[..., None]))
        projected: Tensor = self.project(states)
        return projected

    def last_state(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, H)``: the state of the last position."""
        _, final = self.gru(self.dropout(x * mask[..., None]))  # (layers, B, hidden)
        projected: Tensor = self.project(final[-1])
        return projected
