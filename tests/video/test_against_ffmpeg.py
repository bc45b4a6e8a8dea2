"""The ``ffmpeg`` program as the judge: the frames that it shows, and every pixel of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("imageio_ffmpeg")

from ffmpeg_program import pixels, shown_frames
from hostile_clips import BROKEN, LARGE, TRUNCATED
from synthetic_clips import SOUND

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import FrameSampler

pytestmark = pytest.mark.timeout(120)

FRAMES = 7
QUICK = (
    "h264.mp4",
    "gop-600.mp4",
    "open-gop.mp4",
    "vfr.mp4",
    "one-frame.mp4",
    "rotated-90.mp4",
    "edit-list.mp4",
    "odd-size.mp4",
    "10-bit.mp4",
    "hdr.mp4",
    "full-range.mp4",
    "bt709.mp4",
    "mpeg4.avi",
    "two-sizes.ts",
    "gif.gif",
)
CUT = ("truncated-0.1.mp4", "truncated-0.45.mp4", "truncated-0.9.mp4", "truncated-0.75.mkv")


@pytest.fixture(scope="module", params=["auto", "decord"])
def sampler(request):
    if request.param == "decord":
        pytest.importorskip("decord")
    return FrameSampler(FRAMES, backend=request.param)


def _agree(sampler, path):
    shown = shown_frames(path)
    frames = sampler(path)
    assert shown.indices_at(frames.timestamps) == shown.at_uniform_instants(FRAMES)
    height, width = frames.data.shape[1:3]
    assert (height, width) == shown.size
    starts = [shown.starts[i] for i in shown.at_uniform_instants(FRAMES)]
    np.testing.assert_array_equal(frames.data, pixels(path, starts, height=height, width=width))


@pytest.mark.parametrize("name", QUICK)
def test_frames_and_colours_are_those_of_ffmpeg(sampler, tmp_path, name):
    _agree(sampler, SOUND[name].make(tmp_path))


@pytest.mark.parametrize("name", CUT)
def test_what_is_left_of_a_truncated_clip_is_what_ffmpeg_shows(sampler, tmp_path, name):
    _agree(sampler, TRUNCATED[name].make(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SOUND if n not in QUICK and n != "8k.mp4"])
def test_frames_and_colours_of_all_other_clips(sampler, tmp_path, name):
    _agree(sampler, SOUND[name].make(tmp_path))


@pytest.mark.parametrize("size", [96, (50, 120), (300, 500)])
def test_resized_pixels_are_those_of_ffmpeg(tmp_path, size):
    path = SOUND["h264.mp4"].make(tmp_path)
    shown = shown_frames(path)
    frames = FrameSampler(FRAMES, size, isolate=False)(path)
    starts = [shown.starts[i] for i in shown.at_uniform_instants(FRAMES)]
    height, width = frames.data.shape[1:3]
    np.testing.assert_array_equal(frames.data, pixels(path, starts, height=height, width=width))


@pytest.mark.slow
def test_8k(tmp_path):
    path = SOUND["8k.mp4"].make(tmp_path)
    shown = shown_frames(path)
    frames = FrameSampler(2, 360)(path)
    starts = [shown.starts[i] for i in shown.at_uniform_instants(2)]
    np.testing.assert_array_equal(frames.data, pixels(path, starts, height=360, width=640))
    assert FrameSampler(2)(path).data.shape == (2, 4320, 7680, 3)


REASONS = {
    "truncated-0.02.mp4": "no frames in the file",
    "truncated-0.02.mkv": "no frames in the file",
    "truncated-no-index.mp4": "not a video",
    "zero.mp4": "the file is empty",
    "text.mp4": "not a video",
    "noise.mp4": "not a video",
    "audio.mp4": "no video stream",
    "song.m4a": "no video stream",
    "loop-a.mp4": "a loop of symbolic links",
    "fifo.mp4": "a FIFO",
    "status": "the file is empty",
    "zero": "a device",
    "folder": "a directory",
    "playlist.mp4": "not a video",
    "concat.mp4": "not a video",
    "address.mp4": "not a video",
    "archive.mp4": "not a video",
    "archive.gz.mp4": "not a video",
    "claims-16384.mov": "size is missing or absurd",
    "bomb.gif": "size is missing or absurd",
    "declares-4000000000.mov": "no frames in the file",
}


@pytest.mark.parametrize("name", REASONS)
def test_broken_and_hostile_clips_give_a_reason(sampler, tmp_path, name):
    with pytest.raises(VideoDecodeError) as caught:
        sampler(BROKEN[name].make(tmp_path))
    assert REASONS[name] in caught.value.reason


def test_every_broken_clip_is_expected_somewhere():
    assert {n for n in BROKEN if n not in TRUNCATED} <= {*REASONS, "declares-1000000.mov"}


def test_a_million_declared_frames_are_the_five_that_are_there(tmp_path):
    frames = FrameSampler(5, isolate=False)(BROKEN["declares-1000000.mov"].make(tmp_path))
    np.testing.assert_allclose(frames.timestamps, np.arange(5) / 25, atol=1e-3)


@pytest.mark.slow
def test_two_hundred_thousand_frames(tmp_path):
    frames = FrameSampler(4)(LARGE["long.gif"].make(tmp_path))
    np.testing.assert_allclose(frames.timestamps, [1000, 3000, 5000, 7000])


@pytest.mark.slow
def test_frames_that_do_not_fit_the_memory(tmp_path):
    path = LARGE["wide.gif"].make(tmp_path)
    with pytest.raises(VideoDecodeError, match="memory"):
        FrameSampler(4, memory_mb=1000)(path)
    assert FrameSampler(2, 64)(path).data.shape == (2, 64, 64, 3)
