"""Loads a model by its hub name at several revisions, in a process whose hub is a folder."""

from __future__ import annotations

import json
import sys

from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.opening import open_tap, outline_tap
from linkedout_lightning.tap.types import TapInput


def main(name: str, revisions: list[str]) -> None:
    found = {}
    for revision in revisions:
        config = ExtractConfig(
            model=name,
            out="o",
            revision=None if revision == "default" else revision,
            layers=(2,),
            dtype="float32",
            device="cpu",
        )
        tap = open_tap(config, progress=False)
        outline = outline_tap(config, progress=False)
        assert outline is not None
        assert outline.fingerprint() == tap.fingerprint()
        features = tap.encode([TapInput("a", columns={"title": "A cat"})]).features
        found[revision] = [*(tap.fingerprint()[key] for key in ("model", "revision"))]
        found[revision].append(float(features.abs().sum()))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
