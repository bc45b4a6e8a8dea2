"""From a bundle's folder to a snapshot that answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.bundle import Bundle
from linkedout_lightning.serving.exact import ExactIndex, Index
from linkedout_lightning.serving.sequence import LastState
from linkedout_lightning.serving.snapshot import Encode, Snapshot
from linkedout_lightning.serving.table import VectorTable, check_dtype

INDEXES, RUNTIMES = ("exact", "flat", "ivf"), ("torch", "onnx")


def make_snapshot(
    path: str | os.PathLike[str],
    *,
    index: str = "exact",
    dtype: str | None = None,
    runtime: str = "torch",
    index_options: Mapping[str, Any] | None = None,
) -> tuple[Bundle, Snapshot]:
    """Read a bundle and build its index; the arguments are those of :meth:`Ranker.load`.

    Raises:
        BundleError: The bundle cannot be read.
        ConfigError: An unknown index, dtype or runtime.
        MissingExtraError: faiss or ONNX Runtime is wanted and not installed.
    """
    for name, value, legal in (("index", index, INDEXES), ("runtime", runtime, RUNTIMES)):
        if value not in legal:
            raise ConfigError(f"`{name}` is {value!r}; give one of {', '.join(legal)}")
    if dtype is not None:
        check_dtype(dtype)
    if index_options and index != "ivf":
        raise ConfigError(f"`index_options` are for the index ivf, not for {index!r}")
    bundle, items, sequence, newcomers = Bundle.read(path)
    if dtype is not None:
        items = items.as_dtype(dtype)
    return bundle, Snapshot(
        fingerprint=bundle.manifest.bundle,
        encode=_torch(sequence) if runtime == "torch" else _onnx(bundle),
        max_len=bundle.manifest.sequence["max_len"],
        newcomers=newcomers,
        base=items,
        index=make_index(items.candidates, kind=index, options=index_options or {}),
    )


def make_index(table: VectorTable, *, kind: str, options: Mapping[str, Any]) -> Index:
    """An index over item vectors."""
    if kind == "exact":
        return ExactIndex(table)
    from linkedout_lightning.serving.approximate import FaissIndex

    return FaissIndex(table, kind=kind, **options)


def _torch(sequence: LastState) -> Encode:
    def encode(vectors: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = sequence(vectors, mask)
        return states

    return encode


def _onnx(bundle: Bundle) -> Encode:
    from linkedout_lightning.serving.artefacts import onnx_encoder

    exports = bundle.manifest.sequence["exports"]
    if "onnx" not in exports:
        raise ConfigError(
            f"`runtime` is 'onnx', but {str(bundle.path)!r} was exported without; take 'torch', or "
            "export with the format onnx"
        )
    return onnx_encoder(
        bundle.content(exports["onnx"]), max_len=bundle.manifest.sequence["max_len"]
    )
