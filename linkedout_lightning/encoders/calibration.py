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

Each place that a cold item takes is one that a trained item loses. A strength :math:`t` between 0
and 1 goes only part of the way, :math:`v + t (m(v) - v)`; :mod:`linkedout_lightning.sequence.cold`
measures on the validation what a strength costs and takes the largest that stays in a budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linkedout_lightning.encoders.id import IDItemEncoder

CALIBRATIONS = ("none", "moments", "budget")


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

    def partial(self, strength: float) -> ColdCalibration:
        """A part of the way, as a map of the same form.

        Args:
            strength: From 0 (vectors stay) to 1 (the whole map).

        Example:
            >>> whole = ColdCalibration(torch.zeros(1), torch.ones(1), torch.tensor(3.0))
            >>> whole.partial(0.5)(torch.tensor([2.0]))  # between 2 and 7
            tensor([4.5000])
        """
        if strength == 1:
            return self  # not rounded
        target = self.source + strength * (self.target - self.source)
        return ColdCalibration(self.source, target, 1 + strength * (self.ratio - 1))

    def __call__(self, vectors: Tensor) -> Tensor:
        """``(…, H)`` to ``(…, H)``."""
        return self.target + (vectors - self.source) * self.ratio


@torch.no_grad()
def calibrated(encoder: nn.Module, table: Tensor, strength: float = 1.0) -> Tensor:
    """A table of item vectors, those of items without an ID calibrated.

    Args:
        encoder: The item encoder, in evaluation mode. One that joins no IDs to content has nothing
            to calibrate: all its items are encoded alike.
        table: ``(N + 1, H)``, its ``all_items()``.
        strength: As for :meth:`ColdCalibration.partial`.

    Returns:
        ``(N + 1, H)``; the same object where there is nothing to do.
    """
    if not strength or (cold := cold_items(encoder)) is None:
        return table
    calibration = calibration_of(encoder, table, strength)
    return table if calibration is None else torch.where(cold[:, None], calibration(table), table)


def cold_items(encoder: nn.Module) -> Tensor | None:
    """Which items show no ID of their own beside their content.

    Args:
        encoder: As for :func:`calibrated`.

    Returns:
        ``(N + 1,)`` bool; None if there are none, or the encoder joins no IDs to content.
    """
    ids = getattr(encoder, "ids", None)
    if not isinstance(ids, IDItemEncoder) or ids.no_id is None:
        return None
    cold = ~ids.known
    cold[0] = False  # padding
    return cold if bool(cold.any()) else None


@torch.no_grad()
def calibration_of(
    encoder: nn.Module, table: Tensor, strength: float = 1.0
) -> ColdCalibration | None:
    """The map that :func:`calibrated` applies, and that a new item needs.

    Args:
        encoder: As for :func:`calibrated`.
        table: As for :func:`calibrated`.
        strength: As for :func:`calibrated`.

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
    return ColdCalibration.between(hidden[known], table[known]).partial(strength)


@contextmanager
def _without_ids(known: Tensor) -> Iterator[None]:
    kept = known.clone()
    known.fill_(False)
    try:
        yield
    finally:
        known.copy_(kept)
