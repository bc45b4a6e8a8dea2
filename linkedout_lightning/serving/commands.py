"""`linkedout export`, `recommend` and `add`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linkedout_lightning.errors import ConfigError, LinkedOutError

if TYPE_CHECKING:
    from linkedout_lightning.serving.exporting import ExportReport


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Turn a trained model into a bundle: one folder with all that serving needs.

    Args:
        checkpoint: What a training left: best.ckpt of `linkedout fit`, `compare` or `demo`, its
            folder, the folder of a whole comparison, or the folder of a RecBole SASRec or GRU4Rec.
        out: Folder of the bundle; it appears complete or not at all.
        encoder: Of a whole comparison, the encoder whose best checkpoint is taken; by default the
            best LinkedOut one.
        interactions: Where the training's table of interactions lies now (of RecBole: the folder
            of its data sets); by default where it lay.
        store: Where the training's feature store lies now; by default where it lay.
        items: Table of items, whose texts (such as titles) are kept in the bundle.
        columns: Columns of it to keep; by default all but ids and files.
        dtype: Item vectors as float32, float16 or int8.
        layers: Also keep each item as each layer alone sees it, for similar items by layer.
        formats: Further forms of the sequence encoder, for other programs: torch.export, onnx.
        overwrite: Replace a bundle that is there.
    """

    checkpoint: str
    out: str = "runs/bundle"
    encoder: str | None = None
    interactions: str | None = None
    store: str | None = None
    items: str | None = None
    columns: tuple[str, ...] = ()
    dtype: Literal["float32", "float16", "int8"] = "float32"
    layers: bool = False
    formats: tuple[str, ...] = ("torch.export", "onnx")
    overwrite: bool = False


def export(config: ExportConfig, *, progress: bool = True) -> ExportReport:
    """Write the bundle.

    Args:
        config: What, and where to.
        progress: Say what goes on.

    Raises:
        ConfigError: There is no such model, it cannot be rebuilt without its code, or the folder
            is there.
        DataError: The interactions are not those of the training.
    """
    from linkedout_lightning.serving.artefacts import check_formats
    from linkedout_lightning.serving.exporting import export_bundle
    from linkedout_lightning.serving.folder import check_free
    from linkedout_lightning.serving.sources import Moved, read_source, with_columns

    check_formats(config.formats)
    out = Path(config.out)
    check_free(out, overwrite=config.overwrite)
    if config.columns and config.items is None:
        raise ConfigError("`columns` are of a table of items; name it in `items`")
    _say(progress, f"reading {config.checkpoint}")
    parts = read_source(
        Path(config.checkpoint),
        moved=Moved(interactions=config.interactions, store=config.store),
        layers=config.layers,
        encoder=config.encoder,
    )
    if config.items is not None:
        parts, missing = with_columns(parts, config.items, config.columns or None)
        if missing:
            _say(progress, f"{missing} of {len(parts.item_ids)} items are not in {config.items}")
    _say(progress, f"writing {config.out}")
    return export_bundle(
        parts, out, dtype=config.dtype, formats=config.formats, overwrite=config.overwrite
    )


@dataclass(frozen=True, kw_only=True)
class RecommendConfig:
    """Ask a bundle what comes next.

    Args:
        bundle: Folder of the bundle.
        history: Item ids of the user, the latest last; none for what is popular.
        k: How many items.
        candidates: Rank these items only.
        deny: Items to leave out.
        include_seen: Recommend items of the history too.
        index: exact, or the indexes of faiss: flat (the same answers) and ivf (approximate).
    """

    bundle: str
    history: tuple[str, ...] = ()
    k: int = 10
    candidates: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    include_seen: bool = False
    index: Literal["exact", "flat", "ivf"] = "exact"


@dataclass(frozen=True)
class Answer:
    """What a bundle recommends.

    Args:
        items: Objects with ``rank``, ``id``, ``score`` and the item's texts.
        unknown: Ids of the history that the bundle does not have.
        fallback: Whether no known item was in the history, so that popular ones were given.
    """

    items: list[dict[str, Any]]
    unknown: list[str]
    fallback: bool

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    def summary(self) -> str:
        """The answer as a table."""
        lines = []
        if self.unknown:
            lines.append(f"not in the bundle, passed over: {', '.join(self.unknown)}")
        if self.fallback and self.items:
            lines.append("no known item in the history: the most popular items of the training")
        elif self.fallback:
            lines.append(
                "no known item in the history, and the bundle does not know what is popular"
            )
        width = max([len(item["id"]) for item in self.items], default=0)
        for item in self.items:
            texts = "; ".join(item["columns"].values())
            shown = texts if len(texts) <= 70 else f"{texts[:69]}…"
            lines.append(
                f"{item['rank']:>4}  {item['id']:<{width}}  {item['score']:>9.4f}  {shown}"
            )
        return "\n".join(line.rstrip() for line in lines)


def recommend(config: RecommendConfig, *, progress: bool = True) -> Answer:
    """Load a bundle and rank its items for one history.

    Args:
        config: Which bundle, and for whom.
        progress: Unused; every command takes it.

    Raises:
        BundleError: The bundle cannot be read.
        ConfigError: ``k`` is below 1.
    """
    del progress
    from linkedout_lightning.serving.ranker import Ranker

    ranker = Ranker.load(config.bundle, config.index)
    found = ranker.recommend(
        [config.history],
        config.k,
        exclude_seen=not config.include_seen,
        candidates=config.candidates or None,
        deny=config.deny,
    )
    items = [
        {"rank": rank, "id": item, "score": score, "columns": _first_texts(ranker.columns(item))}
        for rank, (item, score) in enumerate(zip(found.ids[0], found.scores[0], strict=True), 1)
    ]
    return Answer(items, found.unknown[0], found.fallback[0])


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """Put new items into a bundle, to be recommended at once, without training.

    Args:
        bundle: Folder of the bundle.
        video: Videos, each watched once by the language model of the training.
        id: Ids of the items; by default the names of the videos without their suffix.
        title: Titles of the videos, for prompts that have {title}, and to be kept in the bundle.
        store: Feature store to take items from in place of videos; `id` says which.
        model: Folder or hub name of the language model, where the bundle does not tell.
        device: Where it runs: cpu, cuda, auto.
        replace: Give items that are there a new vector.
    """

    bundle: str
    video: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    title: tuple[str, ...] = ()
    store: str | None = None
    model: str | None = None
    device: str = "auto"
    replace: bool = False

    def __post_init__(self) -> None:
        if bool(self.video) == (self.store is not None):
            raise ConfigError("give videos in `video`, or a feature store in `store`")
        if self.store is not None and not self.id:
            raise ConfigError("name the items of the store in `id`")
        if self.store is not None and (self.title or self.model):
            raise ConfigError("`title` and `model` are for videos; the store's items have features")
        for name in ("id", "title"):
            given = getattr(self, name)
            if self.video and given and len(given) != len(self.video):
                raise ConfigError(
                    f"`{name}` holds {len(given)} values for {len(self.video)} videos; give one a "
                    "video, or none"
                )


@dataclass(frozen=True)
class AddReport:
    """Items that came into a bundle.

    Args:
        bundle: Its folder.
        added: Their ids.
        failed: Reason by id of those that did not.
        items: How many items the bundle has now.
    """

    bundle: str
    added: list[str]
    failed: dict[str, str] = field(default_factory=dict)
    items: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @property
    def exit_code(self) -> int:
        """0 if all came in, 3 if some did, 1 if none."""
        if not self.failed:
            return 0
        return 3 if self.added else 1

    def summary(self) -> str:
        """The report for people."""
        shown = ", ".join(self.added[:5]) + (" …" if len(self.added) > 5 else "")
        lines = [f"{self.bundle}: {len(self.added)} items added; {self.items:,} are there"]
        lines += [f"  {shown}"] if self.added else []
        return "\n".join([*lines, *(f"  failed: {i}: {why}" for i, why in self.failed.items())])


def add(config: AddConfig, *, progress: bool = True) -> AddReport:
    """Add items to a bundle on disk; a server that reads the bundle again has them.

    Args:
        config: Which items.
        progress: Say what goes on.

    Raises:
        BundleError: The bundle cannot be read or written.
        ConfigError: Ids that are there, or a model that must be named.
        StoreSpecError: The model or the store is not the one of the training.
    """
    from linkedout_lightning.serving.ranker import Ranker

    ranker = Ranker.load(config.bundle)
    if config.store is not None:
        ranker.add_from_store(config.store, config.id, replace=config.replace, durable=True)
        return AddReport(config.bundle, list(config.id), {}, len(ranker))
    ids = config.id or tuple(Path(video).stem for video in config.video)
    added: list[str] = []
    failed: dict[str, str] = {}
    ranker.check_new(ids, replace=config.replace)
    for place, (item, video) in enumerate(zip(ids, config.video, strict=True)):
        _say(progress, f"watching {video}")
        columns = {"title": [config.title[place]]} if config.title else {}
        try:
            ranker.add_videos(
                [item], [video], columns=columns, model=config.model, device=config.device,
                replace=config.replace, durable=True,
            )  # fmt: skip
        except LinkedOutError as error:
            if len(config.video) == 1:
                raise
            failed[item] = str(error)
        else:
            added.append(item)
    return AddReport(config.bundle, added, failed, len(ranker))


def _first_texts(columns: dict[str, str]) -> dict[str, str]:
    """The title where there is one, otherwise everything."""
    return {"title": columns["title"]} if "title" in columns else columns


def _say(progress: bool, line: str) -> None:
    if progress:
        print(f"==> {line}", flush=True)
