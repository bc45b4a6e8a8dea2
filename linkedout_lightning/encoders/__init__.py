"""Item encoders: item indices in, item vectors out.

Everything that wants item vectors (the sequence models, the RecBole adapters, serving) goes
through the small :class:`ItemEncoder` surface.
"""

from linkedout_lightning.encoders.counts import parameter_counts
from linkedout_lightning.encoders.id import IDItemEncoder
from linkedout_lightning.encoders.linkedout import LinkedOutItemEncoder
from linkedout_lightning.encoders.protocol import ItemEncoder

__all__ = ["IDItemEncoder", "ItemEncoder", "LinkedOutItemEncoder", "parameter_counts"]
