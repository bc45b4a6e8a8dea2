"""What an append must fulfil, and the messages for what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from os.path import isfile

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, NonFiniteError, StoreError, StoreSpecError
from linkedout_lightning.store.spec import StoreSpec

_AXES = ("items", "layers", "slots", "hidden_size")


def check_fit(
    item_ids: Sequence[str], features: Tensor, mask: Tensor, *, spec: StoreSpec, path: str
) -> None:
    """Make sure that a batch has the store's shape and dtype.

    Raises:
        StoreSpecError: It has not; every field that differs is named.
        StoreError: An id occurs twice.
    """
    if len(set(item_ids)) < len(item_ids):
        twice = Counter(item_ids).most_common(1)[0][0]
        raise StoreError(f"`item_ids` holds {twice!r} twice; give each item once")
    expected = (len(item_ids), *spec.shape)
    if features.ndim != len(expected):
        wrong = [f"features: axes (n, L, S, D) expected, shape {tuple(features.shape)} given"]
    else:
        wrong = [
            f"{name}: {want} expected, {got} given"
            for name, want, got in zip(_AXES, expected, features.shape, strict=True)
            if want != got
        ]
    if features.dtype != spec.torch_dtype:
        wrong.append(f"dtype: {spec.dtype} expected, {features.dtype} given")
    flags = (len(item_ids), len(spec.slots))
    if mask.dtype != torch.bool or tuple(mask.shape) != flags:
        wrong.append(f"mask: bool {flags} expected, {mask.dtype} {tuple(mask.shape)} given")
    if wrong:
        raise StoreSpecError(
            f"features do not fit the feature store at {path!r}: {'; '.join(wrong)}"
        )


def check_finite(item_ids: Sequence[str], features: Tensor) -> None:
    """Make sure that every number is one.

    Raises:
        NonFiniteError: NaN or infinity; the message names the items.
    """
    # NaN and infinity survive any sum, and a sum is many times faster than a look at each number.
    if torch.isfinite(features.sum(dtype=torch.float32)):
        return
    finite = torch.isfinite(features).flatten(1).all(1)
    if finite.all():
        return
    bad = [item_ids[i] for i in (~finite).nonzero().flatten().tolist()]
    shown = ", ".join(map(repr, bad[:5])) + (" …" if len(bad) > 5 else "")
    raise NonFiniteError(
        f"features of {len(bad)} of {len(item_ids)} items hold NaN or infinity: {shown}"
    )


def check_apart(item_ids: Sequence[str], failures: Mapping[str, str]) -> None:
    """Make sure that no item is given with features and as a failure."""
    if both := failures.keys() & set(item_ids):
        raise StoreError(f"{min(both)!r} is given with features and as a failure")


def layer_positions(layers: Sequence[int] | None, spec: StoreSpec) -> list[int] | None:
    """Places of layers on the L axis; None for all of them as they are.

    Raises:
        ConfigError: No layer, or one that the store does not have.
    """
    if layers is None or tuple(layers) == spec.layers:
        return None
    if not layers or (unknown := [name for name in layers if name not in spec.layers]):
        named = f"holds {', '.join(map(repr, unknown))}" if layers else "is empty"
        raise ConfigError(
            f"`layers` {named}; the store has the layers {', '.join(map(str, spec.layers))}"
        )
    return [spec.layers.index(name) for name in layers]


def fingerprints_by_id(
    fingerprints: Sequence[str] | Mapping[str, str] | None, item_ids: Sequence[str]
) -> Mapping[str, str]:
    """Fingerprints by item id, from either form."""
    if fingerprints is None:
        return {}
    if isinstance(fingerprints, Mapping):
        return fingerprints
    if len(fingerprints) != len(item_ids):
        raise StoreError(
            f"`fingerprints` has {len(fingerprints)} entries for {len(item_ids)} items"
        )
    return dict(zip(item_ids, fingerprints, strict=True))


def folder_of(path: str | PathLike[str]) -> str:
    """The address of a store as text.

    Raises:
        StoreError: It is a file: Lance takes seconds to find that out, and says it in its own way.
    """
    if isfile(path):
        raise StoreError(f"{fspath(path)!r} is a file; a feature store is a folder")
    return fspath(path)
