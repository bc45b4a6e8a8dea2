"""Worlds on disk and users who choose by the written rules."""

from __future__ import annotations

import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from linkedout_lightning import FrameSampler
from linkedout_lightning.demo import simulate
from linkedout_lightning.demo.probe import decoded_frames
from linkedout_lightning.demo.render import render, sampled_instants
from linkedout_lightning.demo.simulate import generate_world, oracle_features
from linkedout_lightning.demo.videos import VIDEO_FRAMES, VIDEO_SIZE, write_video, write_videos
from linkedout_lightning.demo.world import ATTRIBUTES, NAMES, sample_clips
from linkedout_lightning.errors import ConfigError, DataError

SMALL = {"items": 40, "users": 50, "cold": 8, "steps": 6, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return generate_world(tmp_path_factory.mktemp("world"), **SMALL)


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate)


def test_a_written_video_shows_what_was_drawn(tmp_path):
    frames, _ = render(
        sample_clips(3, np.random.default_rng(0)), sampled_instants(VIDEO_FRAMES), size=VIDEO_SIZE
    )
    for i, clip in enumerate(frames):
        write_video(tmp_path / f"{i}.mp4", clip)
        shown, fps = decode(tmp_path / f"{i}.mp4")
        assert shown.shape == clip.shape
        assert fps == 16
        error = np.square(shown.astype(float) - clip).mean()
        assert 10 * np.log10(255**2 / error) > 24  # dB; colour is stored at half the size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]


def test_probes_look_at_the_frames_that_the_sampler_shows(tmp_path):
    clips = sample_clips(1, np.random.default_rng(4))
    write_videos(clips, [tmp_path / "clip.mp4"], progress=False)
    shown = FrameSampler(8, backend="pyav")(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(shown.data, decoded_frames(clips)[0])
    assert shown.duration == pytest.approx(2.0)


def test_existing_videos_are_left_alone(tmp_path):
    clips = sample_clips(2, np.random.default_rng(0))
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    paths[0].write_bytes(b"mine")
    assert write_videos(clips, paths, progress=False) == 1
    assert paths[0].read_bytes() == b"mine"
    assert write_videos(clips, paths, progress=False) == 0


def test_a_world_is_whole(world):
    items = pq.read_table(world.items).to_pydict()
    assert items["video"] == [f"{i}.mp4" for i in items["item_id"]]
    assert len(set(items["item_id"])) == 40
    assert sum(items["cold"]) == 8
    assert not {"title", "text", "caption"} & set(items)
    assert sorted(p.name for p in world.videos.iterdir()) == sorted(items["video"])
    log = pq.read_table(world.interactions).to_pydict()
    assert len(log["user"]) == 50 * 6
    assert log["timestamp"] == sorted(log["timestamp"])
    assert json.loads((world.items.parent / "world.json").read_text())["simulated"] is True


def test_cold_items_are_only_ever_the_last_of_a_user(world):
    items = pq.read_table(world.items).to_pydict()
    cold = {i for i, is_cold in zip(items["item_id"], items["cold"], strict=True) if is_cold}
    by_user: dict[str, list[str]] = {}
    log = pq.read_table(world.interactions).to_pydict()
    for user, item in zip(log["user"], log["item"], strict=True):
        by_user.setdefault(user, []).append(item)
    assert all(len(set(seen)) == 6 for seen in by_user.values())  # nothing twice
    assert not any(item in cold for seen in by_user.values() for item in seen[:-1])
    last = [seen[-1] in cold for seen in by_user.values()]
    assert 0 < sum(last) < 25


def test_a_world_can_be_made_again(world, tmp_path):
    again = generate_world(tmp_path, **SMALL)
    assert again.items.read_bytes() == world.items.read_bytes()
    assert again.interactions.read_bytes() == world.interactions.read_bytes()
    first = "clip_00000.mp4"
    np.testing.assert_array_equal(decode(again.videos / first)[0], decode(world.videos / first)[0])
    stamp = (again.videos / first).stat().st_mtime_ns
    generate_world(tmp_path, **SMALL)
    assert (again.videos / first).stat().st_mtime_ns == stamp
    generate_world(tmp_path, **SMALL | {"seed": 4})
    assert (again.videos / first).stat().st_mtime_ns != stamp


def test_the_oracle_is_the_truth(world):
    ids, features = oracle_features(world.items)
    items = pq.read_table(world.items).to_pydict()
    assert ids == items["item_id"]
    assert features.shape == (40, sum(map(len, ATTRIBUTES.values())))
    assert (features.sum(1) == len(NAMES)).all()
    offset = 0
    for name, values in ATTRIBUTES.items():
        block = features[:, offset : offset + len(values)]
        assert [values[k] for k in block.argmax(1)] == items[name]
        offset += len(values)


def test_the_oracle_refuses_what_it_does_not_know(world):
    table = pq.read_table(world.items)
    with pytest.raises(DataError, match="`light` is missing"):
        oracle_features(table.drop_columns(["light"]))
    odd = table.set_column(table.column_names.index("light"), "light", [["neon"] * 40])
    with pytest.raises(DataError, match="neon"):
        oracle_features(odd)


@pytest.mark.parametrize("bad", [{"items": 10, "cold": 5, "steps": 5}, {"users": 0}, {"steps": 2}])
def test_impossible_worlds_are_refused(tmp_path, bad):
    with pytest.raises(ConfigError):
        generate_world(tmp_path, **{**SMALL, **bad})


def test_choices_follow_the_softmax_of_the_written_utilities(monkeypatch):
    """First choices against the closed form, with every user of the same taste."""
    rng = np.random.default_rng(5)
    clips = sample_clips(30, rng)
    taste = rng.normal(0, 1, 30).astype(np.float32)
    monkeypatch.setattr(simulate, "POPULARITY_STD", 0.0)
    monkeypatch.setattr(simulate, "affinities", lambda c, u, r: np.tile(taste, (u, 1)))
    users = 20_000
    chosen = simulate.simulate(clips, np.zeros(30, bool), users=users, steps=3, rng=rng)
    odds = np.exp(taste) / np.exp(taste).sum()
    share = np.bincount(chosen[:, 0], minlength=30) / users
    np.testing.assert_allclose(share, odds, atol=5 * np.sqrt(0.25 / users))
    # The second choice: the softmax over the rest, with the pull from the first.
    first = int(odds.argmax())
    pull = sum(
        weight * (clips.code(name) == clips.code(name)[first])
        for name, weight in simulate.PULL.items()
    )
    odds = np.exp(taste + pull)
    odds[first] = 0
    odds /= odds.sum()
    then = chosen[chosen[:, 0] == first, 1]
    share = np.bincount(then, minlength=30) / len(then)
    np.testing.assert_allclose(share, odds, atol=5 * np.sqrt(0.25 / len(then)))


def test_affinities_add_up_what_is_liked():
    clips = sample_clips(500, np.random.default_rng(0))
    table = simulate.affinities(clips, 64, np.random.default_rng(1))
    assert table.min() >= 0
    assert table.max() <= 2.0 + 2.0 + 1.5 + 1.5 + 1.2 + 0.8 + 0.6 + 1e-4
    expected = sum(
        likes * weight / len(ATTRIBUTES[name]) for name, (likes, weight) in simulate.TASTES.items()
    )
    assert abs(table.mean() - expected) < 0.15
    # Attributes that nobody cares about change nothing.
    other = clips.codes.copy()
    for name in set(NAMES) - set(simulate.TASTES):
        other[:, NAMES.index(name)] = 0
    same = simulate.affinities(type(clips)(other, clips.nuisance), 64, np.random.default_rng(1))
    np.testing.assert_array_equal(same, table)
