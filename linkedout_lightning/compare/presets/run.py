"""``compare --preset microlens-100k``: check the files, extract, train, rank, report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linkedout_lightning.compare.presets.cited import citation
from linkedout_lightning.compare.presets.config import NAME, MicroLens100K
from linkedout_lightning.compare.presets.layout import OFFICIAL, Layout, find_layout
from linkedout_lightning.compare.presets.planned import PresetPlan, plan_preset
from linkedout_lightning.compare.presets.recipes import RECIPES
from linkedout_lightning.compare.run import Comparison, compare
from linkedout_lightning.errors import StoreError
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.extract import extract
from linkedout_lightning.tap.report import ExtractReport
from linkedout_lightning.wording import in_time

EXTRACTION = "extract.yaml"
_NO_RESULT = (
    *("jobs", "threads", "devices", "accelerator", "keep_checkpoints", "html", "title", "reuse"),
    *("workers", "device", "device_map", "batch_size", "batch_tokens", "timeout", "lease"),
    *("simulated", "simulation_note", "encoders", "backbones", "seeds", "overrides"),
)
"""Options that change no figure, or that the report shows anyway."""

_INSTEAD = {"mean": "the mean of these", "zero": "zeros", "error": "nothing"}
"""What an item without features has, by ``missing``."""


class Reproduction(Comparison):
    """A comparison whose features were extracted for it."""

    @property
    def exit_code(self) -> int:
        """As of a comparison; 3 too if items have no features."""
        return super().exit_code or (3 if self["preset"]["failed"] else 0)


def microlens_100k(config: MicroLens100K, *, progress: bool = True) -> Reproduction | PresetPlan:
    """From MicroLens-100K's official files to the paper's table.

    Each part goes on where an earlier run stopped: the store is continued, finished cells are
    kept. The extraction's options are written to ``extract.yaml`` beside the report, so that
    ``linkedout extract --config`` on other GPUs and machines does its share meanwhile.

    Args:
        config: The preset.
        progress: Show what goes on.

    Returns:
        What ``results.json`` holds; with ``config.plan`` what it would cost.

    Raises:
        ConfigError: A file of the data set is missing, or an option is not usable.
        DataError: A table is not usable.
        StoreError: The feature store cannot be written.
        StoreSpecError: The store holds features of another model, prompt or sampler.
        MissingExtraError: A package is not installed.

    Example::

        microlens_100k(MicroLens100K(root="MicroLens-100k", settings={"seeds": (0,)}))
    """
    layout = find_layout(
        str(config.root), wants_titles=config.wants_titles, incomplete=config.incomplete
    )
    if config.plan:
        return plan_preset(config, layout, sample=_sample(config, layout, progress=progress))
    comparison = config.compare_config(str(layout.pairs))
    if comparison.html:
        from linkedout_lightning.compare.report import check_installed

        check_installed()  # before days of a GPU, not after
    report = _features(config, layout, progress=progress)
    lines = [
        *_of_preset(config, layout),
        *_of_store(config, layout, report, missing=comparison.missing),
    ]
    beside = {
        "preset": {
            "name": NAME,
            "recipe": config.recipe,
            "lines": lines,
            "failed": 0 if report is None else report.failed,
            "extraction": None if report is None else report.to_json() | {"failures": None},
        },
        "cited": citation(differs=_differs(layout, comparison.split)),
    }
    results = compare(comparison, progress=progress, beside=beside)
    return Reproduction(dict(results), out=results.out)


def _features(config: MicroLens100K, layout: Layout, *, progress: bool) -> ExtractReport | None:
    """Extract what the store lacks; None where a store was named that is complete."""
    extraction = config.extract_config()
    layout.write_items(Path(config.items))
    as_it_is = config.model is None and not config.extraction
    if config.store is not None and as_it_is and _complete(config.store, layout):
        return None
    _write_options(extraction, Path(config.folder) / EXTRACTION)
    if progress:
        print(
            f"features: {extraction.model} watches {len(layout.videos):,} videos -> "
            f"{config.features} (other GPUs help with `linkedout extract --config "
            f"{Path(config.folder) / EXTRACTION}`)",
            file=sys.stderr,
        )
    report = extract(extraction, progress=progress)
    assert isinstance(report, ExtractReport)
    if progress:
        print(report.summary(), file=sys.stderr)
    return report


def _sample(config: MicroLens100K, layout: Layout, *, progress: bool) -> dict[str, Any] | None:
    """What the extraction's own plan finds by running a sample; None if none is asked for."""
    if config.plan is True:
        return None
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        items = Path(folder, "items.csv")
        layout.write_items(items)
        planned = dataclasses.replace(config.extract_config(plan=config.plan), items=str(items))
        return extract(planned, progress=progress).to_json()


def _complete(store: str, layout: Layout) -> bool:
    from linkedout_lightning.store import FeatureStore

    try:
        held = FeatureStore.open(store)
    except StoreError:
        return False
    return not set(layout.item_ids) - set(held.item_ids) - set(held.failures)


def _write_options(extraction: ExtractConfig, path: Path) -> None:
    """The options that are not at their defaults, as a file for ``linkedout extract``."""
    import yaml

    usual = {f.name: f.default for f in dataclasses.fields(ExtractConfig)}
    asked: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(extraction).items()
        if value != usual[name] and not (isinstance(value, dict) and not value)
    }
    for name in ("items", "out"):
        if "://" not in asked[name]:
            asked[name] = str(Path(asked[name]).absolute())
    path.write_text(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _of_preset(config: MicroLens100K, layout: Layout) -> Iterator[str]:
    recipe = RECIPES[config.recipe]
    changed = [
        *([f"model {config.model}"] if config.model is not None else []),
        *(
            f"{name} {_said(value)} of the extraction"
            for name, value in config.extraction.items()
            if name not in _NO_RESULT
        ),
        *(f"{n} {_said(v)}" for n, v in config.settings.items() if n not in _NO_RESULT),
    ]
    changes = f"; changed by hand: {', '.join(changed)}" if changed else ""
    yield f"Recipe {config.recipe}: {recipe.summary}{changes}."
    if not layout.official:
        yield (
            f"These are not the official data: {_counted(layout.sizes)}, and not "
            f"{_counted(OFFICIAL)}."
        )
    for note in layout.notes:
        yield f"{note[0].upper()}{note[1:]}."


def _of_store(
    config: MicroLens100K, layout: Layout, report: ExtractReport | None, *, missing: str
) -> Iterator[str]:
    from linkedout_lightning.store import FeatureStore

    store = FeatureStore.open(config.features)
    spec, held = store.spec, set(store.item_ids)
    there = sum(item in held for item in layout.item_ids)
    others = "" if there == len(layout.item_ids) else f", the others {_INSTEAD[missing]}"
    yield (
        f"Features: {spec.model}, layers {', '.join(map(str, spec.layers))}, slots "
        f"{', '.join(spec.slots)}, hidden size {spec.hidden_size}, {spec.bytes_per_item:,} bytes "
        f"an item; {there:,} of {len(layout.item_ids):,} items have them{others}."
    )
    asked = {name: view["prompt"] for name, view in spec.views.items()} or {"": spec.prompt}
    for name, prompt in asked.items():
        yield f"Prompt{' ' + name if name else ''}: `{prompt}`."
    if report is None:
        yield "They were extracted before, and nothing was checked against the videos."
    else:
        spent = in_time(report.seconds.get("total", 0.0))
        reasons = "; ".join(f"{count} x {why}" for why, count in report.reasons.items())
        yield (
            f"Extraction in this run: {report.done:,} items in {spent}, {report.skipped:,} were "
            f"there already, {report.failed:,} failed" + (f" ({reasons})." if reasons else ".")
        )


def _differs(layout: Layout, split: str | None) -> str | None:
    found = []
    if not layout.official:
        found.append(f"its data are {_counted(layout.sizes)}, not {_counted(OFFICIAL)}")
    if split != "leave_one_out":
        found.append(f"its split is {str(split).replace('_', ' ')}")
    return "; ".join(found) or None


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _counted(sizes: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sizes.items())
