"""Which features an encoder's weights belong to: kept with the weights, compared on loading.

Weights trained on one model's features load without a murmur around another's of the same shape,
and mean nothing there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.encoders.sources import StoreSpecLike
from linkedout_lightning.errors import StoreSpecError

KEY = "trained_on"
"""Name of the description in an encoder's ``state_dict``."""


def describe(spec: StoreSpecLike, layers: Sequence[int]) -> dict[str, Any]:
    """What a store's features are, in JSON-able values.

    Args:
        spec: The store's specification; ``model`` and ``revision`` are left out where it has none,
            and names that nobody gave (its ``assumed``) too.
        layers: The layers in use, by name.

    Example:
        >>> from linkedout_lightning.encoders.sources import TensorSpec
        >>> describe(TensorSpec(layers=(4, 8), slots=("last",), hidden_size=16), [8])
        {'layers': [8], 'slots': ['last'], 'hidden_size': 16}
    """
    found = {name: getattr(spec, name, None) for name in ("model", "revision")}
    named: dict[str, Any] = {name: str(value) for name, value in found.items() if value}
    named |= {"layers": [int(layer) for layer in layers], "slots": list(spec.slots)}
    assumed = getattr(spec, "assumed", ())
    named = {name: value for name, value in named.items() if name not in assumed}
    return named | {"hidden_size": int(spec.hidden_size)}


def to_tensor(description: Mapping[str, Any]) -> Tensor:
    """As UTF-8 bytes, for which both ``weights_only=True`` and safetensors have room."""
    return torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)


def check(saved: Tensor, here: Mapping[str, Any], *, key: str) -> None:
    """Make sure that weights belong to an encoder's features.

    Only fields that both sides have are compared.

    Args:
        saved: What :func:`to_tensor` made.
        here: The encoder's own description.
        key: Where ``saved`` stood in the state.

    Raises:
        StoreSpecError: They were trained on others; each field that differs is named.
    """
    try:
        then = dict(json.loads(bytes(saved.cpu().tolist())))
    except (ValueError, TypeError) as error:
        raise StoreSpecError(f"{key!r} of the checkpoint is damaged: {error}") from None
    differences = [
        f"{name}: {then[name]!r} in the checkpoint, {value!r} here"
        for name, value in here.items()
        if name in then and then[name] != value
    ]
    if differences:
        raise StoreSpecError(
            f"the weights were trained on other features: {'; '.join(differences)}; build the "
            f"encoder on a store with the checkpoint's settings (without {key!r} in the "
            "state_dict they load unchecked)"
        )
