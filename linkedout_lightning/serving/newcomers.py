"""Vectors of items that no training has seen: the trained fusion encoder without its catalogue.

``n`` items, ``L`` layers, ``S`` slots, ``D`` LLM hidden size, ``H`` item dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.encoders.calibration import ColdCalibration
from linkedout_lightning.encoders.explaining import explain_features, feature_spec
from linkedout_lightning.encoders.linkedout import LinkedOutItemEncoder
from linkedout_lightning.encoders.sources import TensorStore
from linkedout_lightning.errors import ConfigError, DataError, LinkedOutError

_TOKEN_DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
_OF_CATALOGUE = ("ids.weight", "ids.known")


@dataclass(frozen=True)
class NewItems:
    """What new items are to a ranker.

    Args:
        vectors: ``(n, H)``.
        candidates: ``(n, H)``; the same object where no calibration is needed.
        gates: ``(n, L)`` or None.
        experts: ``(n, L, H)`` or None.
    """

    vectors: Tensor
    candidates: Tensor
    gates: Tensor | None = None
    experts: Tensor | None = None


class NewItemEncoder:
    """Makes item vectors of features.

    Args:
        encoder: The fusion encoder, in evaluation mode; its own catalogue is not used.
        projection: ``(H, H')`` a linear map after it, or None.
        calibration: What brings items without an ID to the measure of the others, or None.
    """

    def __init__(
        self,
        encoder: LinkedOutItemEncoder,
        *,
        projection: Tensor | None = None,
        calibration: ColdCalibration | None = None,
    ) -> None:
        self._encoder = encoder.eval()
        self.projection, self.calibration = projection, calibration

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the S axis."""
        return self._encoder.slots

    @torch.no_grad()
    def encode(self, features: Tensor, mask: Tensor | None = None) -> NewItems:
        """The vectors that the items would have as cold items of the catalogue.

        Args:
            features: ``(n, L, S, D)``, all layers of the store.
            mask: ``(n, S)`` bool; None: every slot holds something.

        Raises:
            DataError: Another shape.
            NonFiniteError: NaN or infinity in a valid slot.
        """
        if mask is not None and tuple(mask.shape) != (len(features), features.shape[2]):
            raise DataError(
                f"the mask has shape {tuple(mask.shape)}; expected ({len(features)}, "
                f"{features.shape[2]}) beside features of shape {tuple(features.shape)}"
            )
        vectors = self._encoder.encode_features(features.float(), mask)
        seen = explain_features(self._encoder, features.float(), mask)
        if self.projection is not None:
            vectors = vectors @ self.projection.T
        candidates = vectors if self.calibration is None else self.calibration(vectors)
        return NewItems(vectors, candidates, seen.gates, seen.experts)

    # ---- on disk --------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What :meth:`build` needs beside the tensors, as JSON-able values."""
        spec = feature_spec(self._encoder)
        return {
            "options": self._encoder.options,
            "layers": [int(layer) for layer in spec.layers],
            "slots": list(spec.slots),
            "hidden_size": int(spec.hidden_size),
        }

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, the catalogue's own left out."""
        state = self._encoder.state_dict()
        found = {f"encoder.{k}": v for k, v in state.items() if k not in _OF_CATALOGUE}
        if self.projection is not None:
            found["projection"] = self.projection
        if self.calibration is not None:
            found["calibration.source"] = self.calibration.source
            found["calibration.target"] = self.calibration.target
            found["calibration.ratio"] = self.calibration.ratio.reshape(1)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @classmethod
    def build(cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> NewItemEncoder:
        """The opposite of :meth:`describe` and :meth:`tensors`.

        Raises:
            DataError: They do not fit each other.
        """
        try:
            encoder = _encoder(description)
            state = {
                name.removeprefix("encoder."): tensor
                for name, tensor in tensors.items()
                if name.startswith("encoder.")
            }
            if encoder.ids is not None:  # of the item that stands in for a catalogue
                state |= {"ids.weight": encoder.ids.weight, "ids.known": encoder.ids.known}
            encoder.load_state_dict(state)
            calibration = None
            if "calibration.source" in tensors:
                calibration = ColdCalibration(
                    tensors["calibration.source"],
                    tensors["calibration.target"],
                    tensors["calibration.ratio"].squeeze(),
                )
        except (LinkedOutError, KeyError, TypeError, ValueError, RuntimeError) as error:
            words = " ".join(str(error).split())[:300]
            raise DataError(f"the fusion encoder for new items does not fit: {words}") from None
        return cls(encoder, projection=tensors.get("projection"), calibration=calibration)


def _encoder(description: Mapping[str, Any]) -> LinkedOutItemEncoder:
    options = dict(description["options"])
    layers: Sequence[int] = description["layers"]
    slots: Sequence[str] = description["slots"]
    if (dtype := options.pop("token_dtype", "float32")) not in _TOKEN_DTYPES:
        raise ConfigError(f"`token_dtype` is {dtype!r}")
    nobody = torch.zeros(1, len(layers), len(slots), int(description["hidden_size"]))
    return LinkedOutItemEncoder(
        TensorStore(nobody, layers=layers, slots=slots),
        ["1"],
        token_dtype=_TOKEN_DTYPES[dtype],
        **options,
    )
