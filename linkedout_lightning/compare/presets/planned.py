"""What the preset would cost, before anything runs: for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.presets.config import ASSUMED, MicroLens100K
from linkedout_lightning.compare.presets.costs import (
    QWEN_7B,
    Catalogue,
    extraction_seconds,
    published_load,
    training_cost,
    up_to,
)
from linkedout_lightning.compare.presets.layout import Layout
from linkedout_lightning.compare.presets.recipes import MODEL
from linkedout_lightning.errors import ConfigError, VideoDecodeError
from linkedout_lightning.tap.config import ExtractConfig
from linkedout_lightning.tap.costs import Load, ModelSize, count_flops, memory_bytes, store_bytes
from linkedout_lightning.tap.cutting import VIDEO_BATCH
from linkedout_lightning.wording import in_bytes, in_time

if TYPE_CHECKING:
    from linkedout_lightning.video import Frames

_NOTE_BYTES = 80  # of an item's id, stamp and offsets in a store
_TEXT_TOKENS = 45  # of a chat template, a short prompt and a title
_USUAL_FRAME = (384, 683)  # a landscape video, shrunk as the extraction shrinks it
_TRIED = 8  # videos, until one can be decoded


@dataclass(frozen=True, kw_only=True)
class PresetPlan:
    """Outcome of the preset with ``plan``.

    Attributes:
        root: Folder of the official files.
        recipe: Name of the recipe.
        model: The video LLM.
        sizes: Users, items and rows.
        video_bytes: Bytes of the videos.
        frame: Height and width of the frames that the model gets.
        tokens: Tokens of an item, all prompts together.
        tflop: Operations of an item's products, in 10^12.
        layers: How many layers are kept.
        slots: How many slots.
        hidden: Hidden size.
        gpu_hours: Hours of one GPU for all items, the model alone.
        memory: Bytes of the GPU's memory by the formula.
        store_bytes: Bytes of the feature store.
        token_bytes: Bytes of the whitened tokens that training holds in memory.
        training: For each cell its hours on one GPU, by ``encoder/backbone``, of one seed.
        seeds: How many.
        assumed: What was taken for granted.
        sample: What ``linkedout extract --plan`` found by running a sample; None without.
        notes: What a person should know.
    """

    root: str
    recipe: str
    model: str
    sizes: dict[str, int]
    video_bytes: int
    frame: tuple[int, int]
    tokens: float
    tflop: float
    layers: int
    slots: int
    hidden: int
    gpu_hours: float
    memory: int
    store_bytes: int
    token_bytes: int
    training: dict[str, float] = field(default_factory=dict)
    seeds: int
    assumed: dict[str, float]
    sample: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: nothing was to be done but to look."""
        return 0

    @property
    def training_hours(self) -> float:
        """Of all cells and seeds, one after the other."""
        return self.seeds * sum(self.training.values())

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return asdict(self) | {
            "frame": list(self.frame),
            "notes": list(self.notes),
            "training_hours": self.training_hours,
            "exit_code": self.exit_code,
        }

    def summary(self) -> str:
        """The same for people."""
        sizes = self.sizes
        rate = ", ".join(f"{name} {value:g}" for name, value in self.assumed.items())
        lines = [
            f"{self.root}: a plan by recipe {self.recipe}, nothing was run",
            f"  data         {sizes['users']:,} users, {sizes['items']:,} items, {sizes['rows']:,} "
            f"rows; videos {in_bytes(self.video_bytes)}",
            f"  model        {self.model}: {self.layers} layers x {self.slots} slots x "
            f"{self.hidden}, frames of {self.frame[0]} x {self.frame[1]}, {self.tokens:.0f} "
            f"tokens and {self.tflop:.4g} TFLOP an item",
            f"  extraction   {in_time(3600 * self.gpu_hours)} on one GPU, the model alone "
            f"(decoding runs beside it), {in_bytes(self.memory)} of its memory",
            f"  store        {in_bytes(self.store_bytes)}; training holds "
            f"{in_bytes(self.token_bytes)} of whitened tokens",
            f"  training     {in_time(3600 * self.training_hours)} on one GPU for "
            f"{len(self.training)} cells x {self.seeds} seeds, all epochs of each",
            *(f"    {name:<13}{in_time(3600 * hours)}" for name, hours in self._by_backbone()),
            f"  assumed      {rate}; change them with `assume`",
        ]
        if self.sample is not None:
            low, high = (in_time(bound) for bound in self.sample["interval"])
            lines.append(
                f"  sample       {self.sample['sampled']} items were run here: "
                f"{in_time(self.sample['seconds'])} for all (95 %: {low} to {high}), "
                f"{self.sample['failed']} failed"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _by_backbone(self) -> Iterator[tuple[str, float]]:
        total: dict[str, float] = {}
        for name, hours in self.training.items():
            backbone = name.rpartition("/")[2]
            total[backbone] = total.get(backbone, 0.0) + self.seeds * hours
        yield from total.items()


def plan_preset(
    config: MicroLens100K, layout: Layout, *, sample: dict[str, Any] | None = None
) -> PresetPlan:
    """Work out what the preset would cost; decodes at most a few videos for their size.

    Args:
        config: The preset.
        layout: Its files.
        sample: What a plan of the extraction found, if one was made.

    Raises:
        ConfigError: The model, its layers or its prompt are of no use, or its shape cannot be known
            here.
    """
    extraction, comparison = config.extract_config(), config.compare_config(str(layout.pairs))
    assumed = ASSUMED | config.assume
    shown = _first_frames(extraction, layout)
    frame = _USUAL_FRAME if shown is None else shown.data.shape[1:3]
    known = _known_model(extraction, frame)
    parts, layers, slots, hidden = known or _asked_model(extraction, layout, shown)
    seconds = sum(
        extraction_seconds(
            size,
            load,
            batch=extraction.batch_size or VIDEO_BATCH,
            peak=1e12 * assumed["tflops"],
            bandwidth=1e9 * assumed["gb_per_second"],
        )
        for size, load in parts
    )
    items, rank = len(layout.item_ids), min(comparison.rank, hidden)
    data = Catalogue(
        users=layout.sizes["users"],
        items=items,
        positions=layout.positions,
        layers=layers,
        slots=slots,
        hidden=hidden,
    )
    itemsize = 4 if extraction.store_dtype == "float32" else 2
    full = [sum([load] * (VIDEO_BATCH - 1), load) for _, load in parts]
    return PresetPlan(
        root=str(layout.root),
        recipe=config.recipe,
        model=extraction.model,
        sizes=layout.sizes,
        video_bytes=sum(path.stat().st_size for path in layout.videos.values()),
        frame=(int(frame[0]), int(frame[1])),
        tokens=float(sum(load.tokens for _, load in parts)),
        tflop=sum(count_flops(size, load).total for size, load in parts) / 1e12,
        layers=layers,
        slots=slots,
        hidden=hidden,
        gpu_hours=items * seconds / 3600,
        memory=max(memory_bytes(size, load) for (size, _), load in zip(parts, full, strict=True)),
        store_bytes=items * (store_bytes(layers, slots, hidden, itemsize=itemsize) + _NOTE_BYTES),
        token_bytes=4 * items * layers * slots * rank,
        training=_training(comparison, data, assumed),
        seeds=len(comparison.seeds),
        assumed=assumed,
        sample=sample,
        notes=(*layout.notes, *_notes(config, layout, shown, known=known is not None)),
    )


_Parts = list[tuple[ModelSize, Load]]


def _training(
    config: CompareConfig, data: Catalogue, assumed: dict[str, float]
) -> dict[str, float]:
    hours = {}
    for backbone in config.backbones:
        for name in config.encoders:
            encoder = config.encoder(name)
            if not encoder.trains:
                continue
            cost = training_cost(
                config.settings(name, backbone) | {"max_len": config.max_len},
                backbone,
                features=encoder.wants_features,
                ids=encoder.knows_ids,
                data=data,
            )
            hours[f"{name}/{backbone}"] = (
                cost.seconds(
                    flops=1e12 * assumed["train_tflops"],
                    bytes_per_second=1e9 * assumed["gb_per_second"],
                    step=assumed["step_ms"] / 1000,
                )
                / 3600
            )
    return hours


def _first_frames(extraction: ExtractConfig, layout: Layout) -> Frames | None:
    """Frames of the first video that can be decoded, as the model would get them."""
    from linkedout_lightning.video import FrameSampler

    sampler = FrameSampler(
        frames=extraction.frames,
        size=extraction.size,
        backend=extraction.backend,
        timeout_s=extraction.timeout,
    )
    for path in list(layout.videos.values())[:_TRIED]:
        try:
            return sampler(path)
        except VideoDecodeError:
            continue
    return None


def _known_model(
    extraction: ExtractConfig, frame: tuple[int, ...]
) -> tuple[_Parts, int, int, int] | None:
    """The recipes' own model, counted without its files; None for another one."""
    if extraction.model != MODEL:
        return None
    from linkedout_lightning.tap.layers import resolve_layers
    from linkedout_lightning.tap.views import View, parse_views

    layers = resolve_layers(extraction.layers, QWEN_7B.text.blocks)
    views = parse_views(extraction.views) if extraction.views else None
    views = views or {"": View(extraction.prompt, groups=extraction.groups or ())}
    parts, slots = [], 0
    for view in views.values():
        generated = sum(group.count for group in view.parsed_groups if group.kind == "generated")
        of_view = sum(len(group.slots) for group in view.parsed_groups)
        load = published_load(
            frames={"video": extraction.frames, "cover": 2, "nothing": 0}[view.sees],
            height=frame[0],
            width=frame[1],
            text=_TEXT_TOKENS,
            slots=of_view,
            layers=len(layers),
        )
        parts.append((up_to(QWEN_7B, deepest=max(layers), generated=generated), load))
        slots += of_view
    return parts, len(layers), slots, QWEN_7B.text.hidden


def _asked_model(
    extraction: ExtractConfig, layout: Layout, shown: Frames | None
) -> tuple[_Parts, int, int, int]:
    """Another model, from its configuration and processor, without its weights."""
    from linkedout_lightning.tap.opening import outline_tap
    from linkedout_lightning.tap.sizes import loads_of, measure
    from linkedout_lightning.tap.types import TapInput
    from linkedout_lightning.video import Frames

    tap = outline_tap(extraction, progress=False, strict=True)
    if tap is None:
        raise ConfigError(
            f"the shape of {extraction.model!r} cannot be known without its weights here; give "
            "`plan` a number, such as 16, where the model runs on a sample"
        )
    if shown is None and tap.sources:
        data = np.zeros((extraction.frames, *_USUAL_FRAME, 3), dtype=np.uint8)
        seconds = np.arange(extraction.frames, dtype=np.float64)
        shown = Frames(data, seconds, fps=25.0, duration=float(len(data)), backend="none")
    title = max(layout.titles.values(), key=len, default="a title as such items have them")
    columns = dict.fromkeys(tap.columns, title)
    batch = tap.prepare([TapInput("item", shown if tap.sources else None, columns)])
    sizes = measure(tap)
    loads = loads_of(batch, sizes, layers=len(tap.layers))
    return list(zip(sizes, loads, strict=True)), len(tap.layers), len(tap.slots), tap.hidden_size


def _notes(
    config: MicroLens100K, layout: Layout, shown: Frames | None, *, known: bool
) -> Iterator[str]:
    if not layout.official:
        yield "these are not the official data: users, items or rows differ in number"
    if shown is None:
        height, width = _USUAL_FRAME
        yield f"no video could be decoded for its size; {height} x {width} was taken"
    if known:
        yield (
            f"{MODEL} is counted from its published shapes, prompt and title taken as "
            f"{_TEXT_TOKENS} tokens; the hours are arithmetic at the assumed rates, no measurement"
        )
    if Path(config.features).exists():
        yield f"{config.features!r} is there already; what it holds is not done again"
