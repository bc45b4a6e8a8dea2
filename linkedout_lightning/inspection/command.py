"""The command: what a path is, and what is said of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from linkedout_lightning.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Look at one thing.

    Args:
        path: Folder of a feature store, its address in an object store, folder of a bundle, or a
            video file.
        version: Past version of the store, by number or name; by default the latest.
        sample: Items, drawn at random, that the statistics by layer and the search for near
            duplicates go by.
        rows: Items that are searched for dead and duplicate rows, drawn at random where that is
            not all of them; 0 for all. By default as many as 8 GiB hold, which reads in seconds
            to a minute.
        near: Two items are near duplicates from this cosine on, taken after the mean of the
            sample is subtracted.
        listed: How many ids or groups of each finding are listed; all are counted.
    """

    path: str
    version: int | str | None = None
    sample: int = 4096
    rows: int | None = None
    near: float = 0.999
    listed: int = 20

    def __post_init__(self) -> None:
        for name, least in (("sample", 2), ("listed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` is {getattr(self, name)}; give {least} or more")
        if self.rows is not None and self.rows < 0:
            raise ConfigError(f"`rows` is {self.rows}; give 0 for all of them, or more")
        if not 0 < self.near <= 1:
            raise ConfigError(f"`near` is {self.near}; give a cosine above 0 and up to 1")


@dataclass(frozen=True)
class Inspection:
    """What was found, as a nested mapping, and as text."""

    kind: str
    facts: dict[str, Any]
    text: str

    def to_json(self) -> dict[str, Any]:
        """The facts with their kind."""
        return {"kind": self.kind, **self.facts}

    def summary(self) -> str:
        """The facts for people."""
        return self.text


def inspect(config: InspectConfig, *, progress: bool = True) -> Inspection:
    """Find out what ``config.path`` is and describe it.

    Args:
        config: What to look at.
        progress: Show a bar while a store's rows are read.

    Returns:
        What is in a store, how its layers are distributed and which rows are dead or duplicate;
        what is in a bundle, its files checked; or the streams of a video.

    Raises:
        ConfigError: Nothing is there.
        StoreError: The folder is no feature store, or has no such version.
        BundleError: The bundle is damaged or of another format version.
        VideoDecodeError: The file is no video.
    """
    path = Path(config.path)
    if "://" not in config.path and (path / "manifest.json").is_file():
        from linkedout_lightning.serving.inspecting import bundle_facts, describe_bundle

        facts = bundle_facts(path)
        return Inspection("bundle", facts, describe_bundle(facts))
    if "://" in config.path or path.is_dir():
        from linkedout_lightning.inspection.store import store_facts
        from linkedout_lightning.inspection.wording import describe_store

        facts = store_facts(config, progress=progress)
        return Inspection("feature store", facts, describe_store(facts))
    if not path.exists() and not path.is_symlink():
        raise ConfigError(f"`path` is {config.path!r}, but there is no such file or folder")
    from linkedout_lightning.video import probe_video

    probed = probe_video(path)
    facts = asdict(probed) if is_dataclass(probed) else dict(vars(probed))
    lines = [f"  {name.replace('_', ' ')}: {value}" for name, value in facts.items()]
    return Inspection("video", facts, "\n".join(["video", *lines]))
