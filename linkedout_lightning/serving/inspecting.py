"""What a bundle holds, for people."""

from __future__ import annotations

import os
from typing import Any

from linkedout_lightning.serving.bundle import Bundle
from linkedout_lightning.serving.manifest import VERSION
from linkedout_lightning.wording import in_bytes


def bundle_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a bundle says of itself, every file of it read and checked.

    Args:
        path: Its folder.

    Raises:
        BundleError: It is damaged, or of another format version.
    """
    bundle, items, _, newcomers = Bundle.read(path)
    manifest = bundle.manifest
    features = manifest.features or {}
    return {
        "path": os.fspath(path),
        "format_version": VERSION,
        "fingerprint": manifest.bundle,
        "generation": manifest.generation,
        "items": len(items),
        "exported_items": manifest.segments[0].count,
        "dim": manifest.dim,
        "dtype": manifest.dtype,
        "columns": list(items.columns),
        "popularity": items.popularity is not None,
        "layers": manifest.source.get("layers", []),
        "vectors_by_layer": items.experts is not None,
        "sequence": {key: manifest.sequence[key] for key in ("kind", "options", "max_len")},
        "formats": sorted(manifest.sequence["exports"]),
        "new_items_from_features": newcomers is not None,
        "features": {
            key: features[key]
            for key in ("model", "revision", "layers", "slots", "prompt")
            if key in features
        },
        "source": manifest.source,
        "versions": manifest.versions,
        "files": {name: entry.bytes for name, entry in sorted(manifest.files.items())},
    }


def describe_bundle(facts: dict[str, Any]) -> str:
    """The facts as text."""
    sequence, source = facts["sequence"], facts["source"]
    options = ", ".join(f"{name} {value}" for name, value in sequence["options"].items())
    trained = " ".join(
        str(source[name]) for name in ("engine", "encoder", "backbone") if source.get(name)
    )
    new = "by their vectors alone"
    if facts["new_items_from_features"]:
        of = facts["features"].get("model")
        new = f"from features of {of}" if of else "from features"
    lines = [
        f"bundle {facts['path']}: every file is what the manifest says",
        f"  items        {facts['items']:,} of {facts['dim']} {facts['dtype']} numbers"
        + (f", {facts['exported_items']:,} at the export" if facts["generation"] else ""),
        f"  sequence     {sequence['kind']}, the last {sequence['max_len']} items"
        + (f" ({options})" if options else ""),
        f"  new items    {new}",
        f"  layers       {', '.join(map(str, facts['layers'])) or 'none'}"
        + (", an item's vector by each kept" if facts["vectors_by_layer"] else ""),
        f"  texts        {', '.join(facts['columns']) or 'none'}",
        f"  popularity   {'known' if facts['popularity'] else 'not known'}",
        f"  also as      {', '.join(facts['formats']) or 'nothing else'}",
        f"  trained      {trained or 'by the caller'}",
        f"  changed      {facts['generation']} times since the export",
        f"  fingerprint  {facts['fingerprint'][:16]}…, format version {facts['format_version']}",
    ]
    metrics = source.get("metrics") or {}
    shown = [f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)]
    if shown:
        lines.append(f"  test         {', '.join(shown[:6])}")
    lines += [f"  {in_bytes(size):>12}  {name}" for name, size in facts["files"].items()]
    return "\n".join(lines)
