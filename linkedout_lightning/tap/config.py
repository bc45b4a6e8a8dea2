"""The options of an extraction: one schema for Python, YAML and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.engines.options import EngineOptions
from linkedout_lightning.tap.plan import shard_of
from linkedout_lightning.tap.views import USUAL_PROMPT, check_alone, parse_views

# The store's own table of them would import torch, which `--help` does without.
_DTYPES = ("bfloat16", "float16", "float32")
_SAMPLE = 16


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Watch each item's video once and keep several layers of what the model saw.

    Args:
        model: Language model: a name on the hub, or a folder.
        out: Folder of the feature store; made if it is not there, continued if it is.
        items: Table of items: CSV, TSV, JSON lines (also .gz), RecBole's .item or Parquet. Without
            it every video of the folder is an item.
        videos: Folder of videos. With a table, <id>.<ext> in it is an item's video.
        covers: Folder of cover images. With a table, <id>.<ext> in it is an item's cover.
        id_column: Column of item ids; by default one with a usual name.
        video_column: Column of video paths; by default one with a usual name, if there is one.
        cover_column: Column of paths of cover images; by default one with a usual name, if there
            is one.
        title_column: Column to offer to the prompt as {title}.
        revision: Branch, tag or commit of the model on the hub.
        gguf_file: Name of a GGUF file in the model's folder, for text models.
        layers: "all", a number of evenly spaced ones, or a list; k is the output of the k-th
            block, 0 the embeddings, negatives count from the end.
        groups: Which tokens are averaged into each slot: visual, visual:8 (8 spans of time), text,
            title, last, generated:16. By default visual, text and last, or for a model that only
            reads text, text and last.
        prompt: Template with columns of the table in braces, such as "Title: {title}".
        views: Several prompts in one run, in place of `prompt` and `groups`: for each name a
            prompt, what it sees (video, cover or nothing) and its groups, such as
            read.prompt="{title}" read.sees=nothing read.groups=text,last.
        share_prefix: Run the video once for all prompts about it, which go on from its key-value
            cache: the same features but for rounding, for little more than one prompt costs.
        frames: Frames of each video.
        size: Most that the shorter side of a frame may have before the model's processor gets
            it (larger frames are shrunk, none is enlarged), or an exact height and width; none
            for the video's own size.
        backend: Decoder: auto, pyav, decord, torchcodec.
        dtype: The model's numbers: auto (as in its files), bfloat16, float16, float32.
        store_dtype: The store's numbers: float16, bfloat16, float32.
        attention: Attention implementation: sdpa, flash_attention_2, eager; none for the model's
            own choice.
        compile: Compile the model's blocks with torch.compile; takes minutes at the start and pays
            on a GPU only.
        device: cpu, cuda, cuda:1, mps, or auto.
        device_map: Spread a large model with accelerate, in place of `device`: auto, balanced,
            sequential; what the GPUs have no room for is kept in main memory.
        trust_remote_code: Let code from the model's repository run; none is run otherwise.
        batch_size: Items that go through the model at once; by default 8 videos or 32 texts. If
            memory runs out, it is halved.
        batch_tokens: Most tokens that go through the model at once, padding included; one item with
            more goes alone.
        workers: Processes that decode; by default one a core.
        timeout: Seconds that decoding one video may take.
        limit: Only the first so many items of the table.
        shard: "i/n" does the i-th of n shares. Several jobs on one store share the work by
            themselves; this is for jobs that are to have their own part each.
        lease: Seconds after which a job on another machine that shows no sign of life counts as
            dead, and others do its part.
        retry_failed: Try items again that failed before.
        prune: Remove items from the store that the table or folder no longer holds.
        engine: local runs here; ray decodes in workers of Ray Data and streams to others that hold
            the model, on this machine or on the cluster that RAY_ADDRESS names. The features are
            the same.
        engine_options: Workers of the engine: actors, gpus_per_actor, cpus_per_actor, decoders,
            cpus_per_decoder, object_store_mb, such as actors=8 decoders=64.
        plan: Write nothing and say what the extraction would cost: time, memory, bytes, bottleneck.
            A sample of 16 items is run for it, or of as many as are given here.
    """

    model: str
    out: str
    items: str | None = None
    videos: str | None = None
    covers: str | None = None
    id_column: str | None = None
    video_column: str | None = None
    cover_column: str | None = None
    title_column: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    layers: int | tuple[int, ...] | Literal["all"] = 4
    groups: tuple[str, ...] | None = None
    prompt: str = USUAL_PROMPT
    views: dict[str, dict[str, str | tuple[str, ...]]] = field(default_factory=dict)
    share_prefix: bool = False
    frames: int = 8
    size: int | tuple[int, int] | None = 384
    backend: str = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    store_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    attention: str | None = None
    compile: bool = False
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    batch_size: int | None = None
    batch_tokens: int = 16_384
    workers: int | None = None
    timeout: float = 60.0
    limit: int | None = None
    shard: str | None = None
    lease: float = 300.0
    retry_failed: bool = False
    prune: bool = False
    engine: Literal["local", "ray"] = "local"
    engine_options: dict[str, float] = field(default_factory=dict)
    plan: bool | int = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_tokens", "workers", "limit", "lease"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ConfigError(f"`{name}` is {value}; give 1 or more")
        if self.plan is not True and int(self.plan) < 0:
            raise ConfigError(f"`plan` is {self.plan}; give the size of the sample, 1 or more")
        for name, legal in (
            ("dtype", ("auto", *_DTYPES)),
            ("store_dtype", _DTYPES),
            ("engine", ("local", "ray")),
        ):
            if getattr(self, name) not in legal:
                raise ConfigError(
                    f"`{name}` is {getattr(self, name)!r}; give one of {', '.join(legal)}"
                )
        if self.views:
            check_alone(self.views, prompt=self.prompt, groups=self.groups)
            parse_views(self.views)
        if self.device_map is not None and self.device != "auto":
            raise ConfigError(
                f"`device` is {self.device!r} and `device_map` {self.device_map!r}; give one"
            )
        if self.prune and (self.limit is not None or self.shard is not None):
            raise ConfigError("give `prune` without `limit` and `shard`: it needs the whole table")
        if self.shard is not None:
            shard_of([], self.shard)
        EngineOptions.parse(self.engine_options)

    @property
    def sample_size(self) -> int:
        """Items that a plan runs."""
        return _SAMPLE if self.plan is True else int(self.plan)
