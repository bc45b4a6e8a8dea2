"""The demo's last step: the best models as bundles, to be asked and served."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from linkedout_lightning.demo.captions import in_short
from linkedout_lightning.errors import ConfigError

ONNX = ("onnx", "onnxscript", "onnxruntime")


def write_bundles(folder: Path) -> dict[str, Path]:
    """Export the best LinkedOut checkpoint, and the best ID one to compare it with.

    A bundle that is of these weights already stays as it is, with what was added to it.

    Args:
        folder: The demo's folder, with its comparison.

    Returns:
        Folders by name: ``bundle``, and ``bundle-id`` where a row of IDs was trained.
    """
    from linkedout_lightning.serving.artefacts import FORMATS
    from linkedout_lightning.serving.sources import find_checkpoint

    able = all(importlib.util.find_spec(name) for name in ONNX)
    formats = FORMATS if able else FORMATS[:1]
    written = {}
    for name, encoder, wanted in (("bundle", None, formats), ("bundle-id", "id", ())):
        try:
            checkpoint = find_checkpoint(folder, encoder)
        except ConfigError:
            continue  # no such row was trained, or none to the end
        written[name] = _write(folder, folder / name, checkpoint=checkpoint, formats=wanted)
    return written


def _write(folder: Path, out: Path, *, checkpoint: Path, formats: tuple[str, ...]) -> Path:
    import pyarrow.parquet as parquet

    from linkedout_lightning.serving.exporting import export_bundle
    from linkedout_lightning.serving.sources import Moved, read_source

    if out.is_dir() and _is_of(out, checkpoint):
        return out
    moved = Moved(interactions=str(folder / "interactions.parquet"), store=str(folder / "features"))
    parts = read_source(checkpoint.parent, moved=moved, layers=True, encoder=None)
    rows = parquet.read_table(folder / "items.parquet").to_pylist()
    titles = {row["item_id"]: in_short(_texts(row)) for row in rows}
    columns = {"title": [titles.get(item) for item in parts.item_ids]}
    export_bundle(parts, out, columns=columns, formats=formats, overwrite=True)
    return out


def _is_of(bundle: Path, checkpoint: Path) -> bool:
    from linkedout_lightning.serving.bundle import Bundle
    from linkedout_lightning.serving.manifest import BundleError
    from linkedout_lightning.serving.sources import digest_of

    try:
        source = Bundle.open(bundle).manifest.source
    except BundleError:
        return False
    return bool(source.get("checkpoint") == digest_of(checkpoint))


def _texts(row: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items()}
