"""Simulated users choose among simulated clips, by the rules of WORLD.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from linkedout_lightning.demo.videos import write_videos
from linkedout_lightning.demo.world import ATTRIBUTES, NAMES, Clips, sample_clips
from linkedout_lightning.errors import ConfigError, DataError

TASTES: Mapping[str, tuple[int, float]] = MappingProxyType(
    {
        "scene": (1, 2.0),
        "event": (1, 2.0),
        "shape": (2, 1.5),
        "color": (2, 1.5),
        "pacing": (1, 1.2),
        "light": (1, 0.8),
        "speed": (1, 0.6),
    }
)
"""Attribute -> how many of its values a user likes, and what each adds to an item's utility."""
PULL: Mapping[str, float] = MappingProxyType({"shape": 1.0, "color": 0.7})
"""Attribute -> what an item's utility gains when it shares it with the item watched just before."""
POPULARITY_STD = 0.5
COLD_SHARE = 0.2
"""Users whose last choice is made among the cold items alone."""
DAY = 86_400
START = 1_700_000_000  # seconds since 1970; any date would do
USERS_AT_ONCE = 256


@dataclass(frozen=True)
class WorldFiles:
    """Where `generate_world` wrote what."""

    items: Path
    interactions: Path
    videos: Path


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size and seed of a world.

    Attributes:
        items: Clips in the catalogue, the cold ones among them.
        users: Simulated users.
        cold: Items that occur only as the last interaction of some users.
        steps: Interactions of each user.
        seed: Of everything random.
    """

    items: int = 1000
    users: int = 3000
    cold: int = 150
    steps: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.items, self.users) < 1 or self.cold < 0 or self.steps < 3:
            raise ConfigError(f"{self}: give items, users >= 1, cold >= 0 and steps >= 3")
        if self.items - self.cold <= self.steps:
            raise ConfigError(
                f"{self.items} items of which {self.cold} are cold leave no choice to users of "
                f"{self.steps} steps (nobody watches an item twice); give more items"
            )


def affinities(clips: Clips, users: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """What each user sees in each item (users, items): `TASTES` summed over shared values."""
    total = np.zeros((users, len(clips)), dtype=np.float32)
    for name, (likes, weight) in TASTES.items():
        size = len(ATTRIBUTES[name])
        order = rng.random((users, size)).argsort(axis=1)[:, :likes]  # a user's liked values
        table = np.zeros((users, size), dtype=np.float32)
        np.put_along_axis(table, order, np.float32(weight), axis=1)
        total += table[:, clips.code(name)]
    return total


def simulate(
    clips: Clips, cold: npt.NDArray[np.bool_], *, users: int, steps: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Let users choose.

    Args:
        clips: N items.
        cold: (N,) items that only the last step of some users may reach.
        users: Number of users U.
        steps: Choices a user.
        rng: Of tastes, popularity and chance.

    Returns:
        Chosen items (U, steps) as indices into `clips`, no item twice in a row of the table.
    """
    popularity = rng.normal(0, POPULARITY_STD, len(clips)).astype(np.float32)
    utility = affinities(clips, users, rng) + popularity
    to_cold = (rng.random(users) < COLD_SHARE) & cold.any()
    alike = sum(
        weight * (clips.code(name)[:, None] == clips.code(name)[None, :])
        for name, weight in PULL.items()
    )
    pull = np.asarray(alike, dtype=np.float32)  # (N, N)
    choices = np.empty((users, steps), dtype=np.int64)
    for start in range(0, users, USERS_AT_ONCE):
        some = slice(start, start + USERS_AT_ONCE)
        left = utility[some].copy()
        rows = np.arange(len(left))
        for step in range(steps):
            wanted = left + rng.gumbel(size=left.shape).astype(np.float32)
            if step:
                wanted += pull[choices[some, step - 1]]
            # Gumbel's maximum is a draw from the softmax of the utilities.
            allowed = np.broadcast_to(~cold, wanted.shape)
            if step == steps - 1:
                allowed = np.where(to_cold[some, None], cold[None, :], allowed)
            choices[some, step] = np.where(allowed, wanted, -np.inf).argmax(axis=1)
            left[rows, choices[some, step]] = -np.inf
    return choices


def generate_world(
    out: Path,
    *,
    items: int = 1000,
    users: int = 3000,
    cold: int = 150,
    steps: int = 15,
    seed: int = 0,
    progress: bool = True,
) -> WorldFiles:
    """Write a simulated world into `out`: items.parquet, interactions.parquet and videos/*.mp4.

    The same arguments give the same world; videos that are there already are kept, those of another
    world replaced.

    Raises:
        ConfigError: The sizes contradict each other.
    """
    config = WorldConfig(items=items, users=users, cold=cold, steps=steps, seed=seed)
    files = WorldFiles(out / "items.parquet", out / "interactions.parquet", out / "videos")
    files.videos.mkdir(parents=True, exist_ok=True)
    stamp, told = out / "world.json", json.dumps(asdict(config) | {"simulated": True}, indent=2)
    if not stamp.exists() or stamp.read_text() != told:
        for path in files.videos.glob("clip_*.mp4"):
            path.unlink()
        stamp.write_text(told)

    clips = sample_clips(items, np.random.default_rng([seed, 11]))
    rng = np.random.default_rng([seed, 12])
    is_cold = np.zeros(items, dtype=np.bool_)
    is_cold[rng.choice(items, cold, replace=False)] = True
    choices = simulate(clips, is_cold, users=users, steps=steps, rng=rng)
    # Users start within 90 days and come back after about a day.
    gaps = rng.exponential(DAY, (users, steps)).astype(np.int64) + 60
    times = START + rng.integers(0, 90 * DAY, (users, 1)) + gaps.cumsum(axis=1)

    ids = np.array([f"clip_{i:05d}" for i in range(items)])
    names = [f"{name}.mp4" for name in ids]
    columns = {name: clips.words(name) for name in NAMES}
    table = pa.table({"item_id": ids, "video": names, **columns, "cold": is_cold})
    pq.write_table(table, files.items)
    who = np.repeat(np.array([f"user_{i:05d}" for i in range(users)]), steps)
    seen = {"user": who, "item": ids[choices.reshape(-1)], "timestamp": times.reshape(-1)}
    order = np.argsort(seen["timestamp"], kind="stable")
    pq.write_table(pa.table({k: v[order] for k, v in seen.items()}), files.interactions)
    write_videos(clips, [files.videos / name for name in names], progress=progress)
    return files


def oracle_features(items: Path | pa.Table) -> tuple[list[str], npt.NDArray[np.float32]]:
    """The true attributes of a world's items, one-hot: what a perfect eye would know.

    Args:
        items: items.parquet of `generate_world`, or its table.

    Returns:
        Item ids (N), and features float32 (N, 59).

    Raises:
        DataError: A column is missing or holds a word that is no value of its attribute.
    """
    table = items if isinstance(items, pa.Table) else pq.read_table(items)
    blocks = []
    for name, values in ATTRIBUTES.items():
        if name not in table.column_names:
            raise DataError(f"column `{name}` is missing; the items have {table.column_names}")
        words = np.array(table.column(name).to_pylist())
        block = words[:, None] == np.array(values)[None, :]
        if not block.any(axis=1).all():
            unknown = sorted(set(words.tolist()) - set(values))
            raise DataError(f"`{name}` holds {unknown[:3]}; its values are {', '.join(values)}")
        blocks.append(block)
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    return [str(i) for i in table.column("item_id").to_pylist()], features
