r"""Cold items in a ranking among warm ones: their vectors brought to the measure of the others.

An item outside training shows the learned ``[no-id]`` vector in place of an ID of its own. What it
has then is shorter than the vectors of trained items and varies less, since an ID adds length in
the direction of its item's own users; so the best of the cold items' scores stay below the best of
the others, and cold items miss the top of the full ranking whatever their content says.

The remedy needs no cold item, so it serves a single new one: trained items are encoded a second
time as though they had no ID either, and the map that brings the mean and the spread of those
vectors to the mean and the spread of the same items' own,

.. math:: v \mapsto \mu + \frac{\sigma}{\sigma'} (v - \mu'),

is applied to the items without an ID. The order among cold items for a user does not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linkedout_lightning.encoders.id import IDItemEncoder

CALIBRATIONS = ("none", "moments")


@dataclass(frozen=True)
class ColdCalibration:
    """The map of the vectors of items without an ID.

    Attributes:
        source: ``(H,)`` mean of trained items encoded without their ID.
        target: ``(H,)`` mean of their own vectors.
        ratio: Spread of their own vectors over that without IDs.

    Example:
        >>> own = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> calibration = ColdCalibration.between(own / 4 + 1, own)
        >>> calibration(torch.tensor([[1.5, 1.5]]))
        tensor([[2., 2.]])
    """

    source: Tensor
    target: Tensor
    ratio: Tensor

    @classmethod
    def between(cls, without_ids: Tensor, own: Tensor) -> ColdCalibration:
        """The map from one cloud of vectors to the other.

        Args:
            without_ids: ``(n, H)``.
            own: ``(n, H)``.
        """
        source, target = without_ids.mean(0), own.mean(0)
        spread, wanted = (v.sub(m).square().sum(1).mean().sqrt()
                          for v, m in ((without_ids, source), (own, target)))  # fmt: skip
        # Without any spread there is nothing to scale, and no content to rank by.
        ratio = torch.where(spread > 0, wanted / spread.clamp(min=1e-12), torch.ones_like(spread))
        return cls(source, target, ratio)

    def __call__(self, vectors: Tensor) -> Tensor:
        """``(…, H)`` to ``(…, H)``."""
        return self.target + (vectors - self.source) * self.ratio


@torch.no_grad()
def calibrated(encoder: nn.Module, table: Tensor) -> Tensor:
    """A table of item vectors, those of items without an ID calibrated.

    Args:
        encoder: The item encoder, in evaluation mode. One that joins no IDs to content has nothing
            to calibrate: all its items are encoded alike.
        table: ``(N + 1, H)``, its ``all_items()``.

    Returns:
        ``(N + 1, H)``; the same object where there is nothing to do.
    """
    ids = getattr(encoder, "ids", None)
    if not isinstance(ids, IDItemEncoder) or ids.no_id is None:
        return table
    cold = ~ids.known
    cold[0] = False  # padding
    if not bool(cold.any()) or (calibration := calibration_of(encoder, table)) is None:
        return table
    return torch.where(cold.unsqueeze(-1), calibration(table), table)


@torch.no_grad()
def calibration_of(encoder: nn.Module, table: Tensor) -> ColdCalibration | None:
    """The map that :func:`calibrated` applies, and that a new item needs.

    Args:
        encoder: As for :func:`calibrated`.
        table: As for :func:`calibrated`.

    Returns:
        None where there is nothing to calibrate, or nothing to calibrate by.
    """
    ids = getattr(encoder, "ids", None)
    if not isinstance(ids, IDItemEncoder) or ids.no_id is None:
        return None
    known = ids.known.clone()
    if not bool(known.any()):
        return None
    with _without_ids(ids.known):
        hidden: Tensor = encoder.all_items()  # type: ignore[operator]
    return ColdCalibration.between(hidden[known], table[known])


@contextmanager
def _without_ids(known: Tensor) -> Iterator[None]:
    kept = known.clone()
    known.fill_(False)
    try:
        yield
    finally:
        known.copy_(kept)
