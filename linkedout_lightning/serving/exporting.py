"""From a trained model to a bundle.

``N`` items, ``L`` layers, ``H`` item dim.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from linkedout_lightning.encoders.calibration import ColdCalibration, calibration_of
from linkedout_lightning.encoders.explaining import Explained, explain, feature_spec
from linkedout_lightning.encoders.linkedout import LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError
from linkedout_lightning.sequence import SequentialRecommender
from linkedout_lightning.serving import folder as files
from linkedout_lightning.serving.artefacts import FORMATS, SUFFIX, check_formats, write_artefact
from linkedout_lightning.serving.bundle import write_segment
from linkedout_lightning.serving.items import Items
from linkedout_lightning.serving.manifest import MANIFEST, FileEntry, Manifest, encode
from linkedout_lightning.serving.newcomers import NewItemEncoder
from linkedout_lightning.serving.sequence import LastState, build, describe
from linkedout_lightning.serving.table import VectorTable, check_dtype

_WEIGHTS, _ENCODER = "sequence/weights.safetensors", "newcomers/weights.safetensors"
_NOTHING = Explained(None, None)
_PACKAGES = ("linkedout-lightning", "torch", "safetensors", "onnx", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """A trained model taken apart into what a bundle holds.

    Args:
        item_ids: N ids.
        vectors: ``(N, H)`` float32, what a history's items are to the sequence model.
        candidates: ``(N, H)``, what states are multiplied with; None: the same.
        kind: Name of the sequence model, one of ``KINDS`` in :mod:`.sequence`.
        options: Its arguments.
        max_len: Its longest input.
        state: Its weights.
        newcomers: Makes vectors of new items; None for models of ids.
        explained: Items layer by layer, as far as known.
        layers: Names of the L axis.
        features: Specification of the features, JSON-able; None where unknown.
        popularity: ``(N,)`` share of the training interactions, or None.
        columns: Texts by name, N each.
        source: Where the weights came from, JSON-able.
    """

    item_ids: Sequence[str]
    vectors: Tensor
    candidates: Tensor | None = None
    kind: str
    options: Mapping[str, Any]
    max_len: int
    state: Mapping[str, Tensor]
    newcomers: NewItemEncoder | None = None
    explained: Explained = _NOTHING
    layers: Sequence[int] = ()
    features: Mapping[str, Any] | None = None
    popularity: Tensor | None = None
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    """A bundle that was written.

    Args:
        path: The folder.
        items: N.
        dim: H.
        dtype: Of the item vectors.
        sequence: Kind of the sequence model.
        new_items: Whether it encodes new items from features.
        formats: Further forms of the sequence encoder.
        bytes: Size of each file.
        onnx_difference: Largest difference of a state between ONNX Runtime and torch, or None.
    """

    path: Path
    items: int
    dim: int
    dtype: str
    sequence: str
    new_items: bool
    formats: tuple[str, ...]
    bytes: dict[str, int]
    onnx_difference: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return {**vars(self), "path": str(self.path), "formats": list(self.formats)}

    def summary(self) -> str:
        """The report for people."""
        from linkedout_lightning.wording import in_bytes

        new = "new items from their features" if self.new_items else "no new items from features"
        lines = [
            f"{self.path}: {self.items:,} items of {self.dim} {self.dtype} numbers, "
            f"{self.sequence}, {new}",
            *(f"  {name:<32} {in_bytes(size)}" for name, size in sorted(self.bytes.items())),
        ]
        if self.onnx_difference is not None:
            lines.append(f"  ONNX Runtime's states differ by {self.onnx_difference:.1e} at most")
        return "\n".join(lines)


def export_bundle(
    model: SequentialRecommender | Exportable,
    out: str | os.PathLike[str],
    *,
    item_ids: Sequence[str] | None = None,
    counts: Tensor | None = None,
    columns: Mapping[str, Sequence[str | None]] | None = None,
    dtype: str = "float32",
    layers: bool = False,
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    source: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a bundle: all that :class:`Ranker` needs, in one folder, without pickle.

    The folder appears complete or not at all, whatever ends the export.

    Args:
        model: A trained recommender, or one taken apart already, to which of the arguments below
            only ``columns`` adds.
        out: The folder.
        item_ids: Ids of the items 1 to N, as the data module has them.
        counts: ``(N + 1,)`` or ``(N,)`` training interactions by item, for users without a history.
        columns: What else is known of the items, such as ``{"title": [...]}``, N texts each.
        dtype: Of the item vectors: float32, float16 or int8.
        layers: Also keep each item as each layer alone sees it, ``4·L`` bytes a coordinate, so that
            similar items can be looked up by layer.
        formats: Further forms of the sequence encoder: ``torch.export``, ``onnx``.
        overwrite: Replace a folder that is there.
        source: What else to say of where the weights came from, JSON-able.

    Returns:
        What was written.

    Raises:
        ConfigError: The model cannot be rebuilt without its code, or the folder is there.
        DataError: Ids, counts or columns that do not fit the model.
        NonFiniteError: An item vector holds NaN or infinity.
        MissingExtraError: A format needs packages that are not installed.
    """
    check_dtype(dtype)
    check_formats(tuple(formats))
    if isinstance(model, Exportable):
        parts = replace(model, columns={**model.columns, **(columns or {})})
    else:
        if item_ids is None:
            raise ConfigError("give `item_ids`, the ids of the model's items 1 to N")
        parts = take_apart(
            model, item_ids, counts=counts, columns=columns, layers=layers, source=source
        )
    _check(parts)
    sequence = build(
        parts.kind,
        dim=parts.vectors.shape[1],
        max_len=parts.max_len,
        options=parts.options,
        state=parts.state,
    )
    made: dict[str, Any] = {}

    def fill(path: Path) -> None:
        made["manifest"], made["difference"] = _write(
            path, parts, sequence, dtype=dtype, formats=tuple(formats)
        )

    files.write_folder(Path(out), fill, overwrite=overwrite)
    manifest: Manifest = made["manifest"]
    return ExportReport(
        path=Path(out),
        items=len(parts.item_ids),
        dim=manifest.dim,
        dtype=dtype,
        sequence=parts.kind,
        new_items=parts.newcomers is not None,
        formats=tuple(formats),
        bytes={name: entry.bytes for name, entry in manifest.files.items()},
        onnx_difference=made["difference"],
    )


@torch.no_grad()
def take_apart(
    model: SequentialRecommender,
    item_ids: Sequence[str],
    *,
    counts: Tensor | None = None,
    columns: Mapping[str, Sequence[str | None]] | None = None,
    layers: bool = False,
    source: Mapping[str, Any] | None = None,
) -> Exportable:
    """A trained recommender as a bundle's parts; the arguments are those of :func:`export_bundle`.

    Raises:
        ConfigError: Its sequence model is a class of the caller's own.
        DataError: As many ids or counts are not the model's items.
    """
    encoder, training = model.item_encoder, model.training
    if len(item_ids) != model.num_items:
        raise DataError(f"{len(item_ids)} `item_ids` for a model of {model.num_items} items")
    kind, options = describe(model.backbone)
    model.eval()
    try:
        table, candidates = model.item_table().float().cpu(), model.candidate_table().float().cpu()
        newcomers, explained, features = None, _NOTHING, None
        named: tuple[int, ...] = ()
        if isinstance(encoder, LinkedOutItemEncoder):
            calibration = None
            if model.calibration_strength:
                calibration = calibration_of(encoder, table, model.calibration_strength)
            newcomers = newcomer_encoder(encoder, calibration=calibration)
            explained, named = explain(encoder), encoder.layers
            features = features_of(encoder)
    finally:
        model.train(training)
    return Exportable(
        item_ids=list(item_ids),
        vectors=table[1:],
        candidates=None if torch.equal(candidates[1:], table[1:]) else candidates[1:],
        kind=kind,
        options=options,
        max_len=model.max_len,
        state=model.backbone.state_dict(),
        newcomers=newcomers,
        explained=Explained(explained.gates, explained.experts if layers else None),
        layers=named,
        features=features,
        popularity=shares(counts, len(item_ids)),
        columns=dict(columns or {}),
        source=dict(source or {}),
    )


def newcomer_encoder(
    encoder: nn.Module,
    *,
    projection: Tensor | None = None,
    calibration: ColdCalibration | None = None,
) -> NewItemEncoder | None:
    """What encodes new items with a trained encoder; None for one that knows ids alone."""
    if not isinstance(encoder, LinkedOutItemEncoder):
        return None
    # Rebuilt at once, so that what goes into the bundle is known to come out of it.
    parts = NewItemEncoder(encoder, projection=projection, calibration=calibration)
    return NewItemEncoder.build(parts.describe(), parts.tensors())


def features_of(encoder: LinkedOutItemEncoder) -> dict[str, Any] | None:
    """The specification of an encoder's features, if they came from a store."""
    spec = cast(Any, feature_spec(encoder))
    found: dict[str, Any] | None = spec.to_json() if hasattr(spec, "to_json") else None
    return found


def shares(counts: Tensor | None, items: int) -> Tensor | None:
    """Training interactions as shares of all, ``(N,)``.

    Raises:
        DataError: Another number of items.
    """
    if counts is None:
        return None
    if counts.dim() != 1 or len(counts) not in (items, items + 1):
        raise DataError(f"`counts` have shape {tuple(counts.shape)}; give ({items + 1},)")
    own = counts[-items:].double()
    return (own / own.sum().clamp(min=1)).float()


def _write(
    path: Path, parts: Exportable, sequence: LastState, *, dtype: str, formats: tuple[str, ...]
) -> tuple[Manifest, float | None]:
    from safetensors.torch import save

    dim, difference = parts.vectors.shape[1], None
    segment, entries = write_segment(path, "items/0", _items(parts, dtype))

    def put(name: str, content: bytes) -> None:
        (path / name).parent.mkdir(exist_ok=True)
        files.write_bytes(path / name, content)
        entries[name] = files.entry_of(path / name)

    put(_WEIGHTS, save({k: v.contiguous() for k, v in sequence.backbone.state_dict().items()}))
    described: dict[str, Any] | None = None
    if parts.newcomers is not None:
        put(_ENCODER, save(parts.newcomers.tensors()))
        described = {**parts.newcomers.describe(), "weights": _ENCODER}
    exports = {}
    for name in formats:
        exports[name] = f"sequence/{SUFFIX[name]}"
        content, measured = write_artefact(name, sequence, dim=dim, max_len=parts.max_len)
        difference = measured if measured is not None else difference
        put(exports[name], content)
    manifest = Manifest(
        bundle=_fingerprint(entries),
        generation=0,
        dim=dim,
        dtype=dtype,
        segments=(segment,),
        sequence={
            "kind": parts.kind,
            "options": dict(parts.options),
            "max_len": parts.max_len,
            "weights": _WEIGHTS,
            "exports": exports,
        },
        encoder=described,
        features=_plain(parts.features),
        source={"layers": [int(layer) for layer in parts.layers], **(_plain(parts.source) or {})},
        versions=_versions(),
        files=entries,
    )
    files.write_bytes(path / MANIFEST, encode(manifest))
    return manifest, difference


def _items(parts: Exportable, dtype: str) -> Items:
    vectors = VectorTable.of(parts.vectors, dtype)
    candidates = vectors if parts.candidates is None else VectorTable.of(parts.candidates, dtype)
    return Items(
        list(parts.item_ids),
        vectors,
        candidates,
        parts.popularity,
        parts.explained.gates,
        parts.explained.experts,
        columns=parts.columns,
    )


def _check(parts: Exportable) -> None:
    ids = list(parts.item_ids)
    if not ids or not all(isinstance(i, str) and i for i in ids) or len(set(ids)) < len(ids):
        raise DataError(
            f"{len(ids)} item ids, {len(set(ids))} different ones; give one or more texts, each "
            "once and none empty"
        )
    for name, table in (("vectors", parts.vectors), ("candidates", parts.candidates)):
        if table is None:
            continue
        if table.dim() != 2 or len(table) != len(ids):
            raise DataError(f"{len(ids)} item ids and {name} of shape {tuple(table.shape)}")
        if not bool(torch.isfinite(table).all()):
            row = int((~torch.isfinite(table).all(1)).nonzero()[0])
            raise NonFiniteError(f"the vector of item {ids[row]!r} holds NaN or infinity")
    for name, column in parts.columns.items():
        if len(column) != len(ids) or not all(v is None or isinstance(v, str) for v in column):
            raise DataError(f"the column {name!r} does not hold {len(ids)} texts")


def _fingerprint(entries: Mapping[str, FileEntry]) -> str:
    listed = sorted((name, entry.sha256) for name, entry in entries.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _plain(value: Any) -> Any:
    from linkedout_lightning.compare.files import plain

    return None if value is None else plain(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
