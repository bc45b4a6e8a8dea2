"""Numbered frames read back: which frame is taken, which way up, in what colour."""

from __future__ import annotations

import av
import numpy as np
import pytest
from barcodes import (
    HEIGHT,
    WIDTH,
    expected_by_times,
    expected_numbers,
    numbers,
    patch_display_matrix,
    patch_edit_list,
    write_packed,
    write_video,
)

from linkedout_lightning.video import FrameSampler

KINDS = {
    "mp4-gop1": ("mp4", {"gop": 1, "b_frames": 0}),
    "mp4-gop12": ("mp4", {}),
    "mp4-gop250": ("mp4", {"gop": 250}),
    "mp4-open-gop": ("mp4", {"options": {"x264-params": "open-gop=1:keyint=10:scenecut=0"}}),
    "mp4-fragmented": ("mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mp4-with-audio": ("mp4", {"audio": True}),
    "mp4-10-bit": ("mp4", {"pixel_format": "yuv420p10le"}),
    "mp4-4:4:4": ("mp4", {"pixel_format": "yuv444p"}),
    "hevc": (
        "mp4",
        {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10:open-gop=1"}},
    ),
    "mkv": ("mkv", {}),
    "mpeg-ts": ("ts", {}),
    "mpeg-ps": ("mpg", {"codec": "mpeg2video"}),
    "avi-mpeg4": ("avi", {"codec": "mpeg4", "b_frames": 0}),
    "avi-mpeg4-b-frames": ("avi", {"codec": "mpeg4", "b_frames": 2}),
    "avi-h264-b-frames": ("avi", {}),
    "asf": ("asf", {"codec": "msmpeg4v3"}),
    "mov-h264-no-b-frames": ("mov", {"b_frames": 0}),
    "nut": ("nut", {}),
    "mxf": ("mxf", {"codec": "mpeg2video"}),
    "webm-vp9": ("webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
    "webm-vp8-hidden-frames": (
        "webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    ),
    "flv": ("flv", {}),
    "flv1": ("flv", {"codec": "flv"}),
    "av1": ("mkv", {"codec": "libsvtav1", "options": {"preset": "12"}}),
    "bare-hevc": ("hevc", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    "bare-h264": ("h264", {}),
    "mjpeg": ("avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {
        name: write_video(folder / f"{index}.{ending}", **options)
        for index, (name, (ending, options)) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def inside():
    """A sampler without isolation, so that what is tested here is the decoding alone."""
    return lambda **options: FrameSampler(isolate=False, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 7, 16])
def test_every_format_gives_the_frames_shown_at_uniform_instants(videos, inside, kind, frames):
    result = inside(frames=frames)(videos[kind])
    expected = expected_numbers(60, frames)
    assert numbers(result.data) == expected
    assert result.data.shape == (frames, HEIGHT, WIDTH, 3)
    assert result.data.dtype == np.uint8
    np.testing.assert_allclose(result.timestamps, np.array(expected) / 25, atol=2e-3)
    assert result.fps == pytest.approx(25, rel=0.01)
    assert result.duration == pytest.approx(2.4, abs=0.05)
    assert (result.backend, result.fallback_reason) == ("pyav", None)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, inside, ending):
    gaps = np.random.default_rng(0).integers(10, 400, 59)
    times = [0, *np.cumsum(gaps).tolist()]
    path = write_video(tmp_path / f"v.{ending}", times=times)
    result = inside(frames=16)(path)
    end = times[0] + round(result.duration * 1000)
    assert end > times[-1]
    expected = expected_by_times(times, end, 16)
    assert numbers(result.data) == expected
    np.testing.assert_allclose(result.timestamps, [times[k] / 1000 for k in expected], atol=2e-3)


def test_more_frames_than_the_video_has_repeats_them(tmp_path, inside):
    result = inside(frames=8)(write_video(tmp_path / "v.mp4", 3))
    assert numbers(result.data) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert result.timestamps.tolist() == sorted(result.timestamps.tolist())


def test_one_frame(tmp_path, inside):
    result = inside(frames=4)(write_video(tmp_path / "v.mp4", 1))
    assert numbers(result.data) == [0] * 4
    assert result.timestamps.tolist() == [0.0] * 4
    assert 0 < result.duration < 1


def test_what_an_edit_list_hides_is_not_shown(tmp_path, inside):
    path = write_video(tmp_path / "v.mp4", gop=12)
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    # Frames 15 to 44 remain: the first lies in the middle of a group of pictures.
    patch_edit_list(path, skip_ticks=int(15 / 25 / tick), movie_ticks=1200)
    result = inside(frames=10)(path)
    assert numbers(result.data) == [15 + k for k in expected_numbers(30, 10)]
    assert result.duration == pytest.approx(1.2, abs=0.041)


@pytest.mark.parametrize("frames", [7, 16, 60])
def test_packed_b_frames_take_their_times_in_the_order_of_showing(tmp_path, inside, frames):
    """DivX's AVI: each of these packets' times stands on another frame than the one decoded."""
    result = inside(frames=frames)(write_packed(tmp_path / "v.avi"))
    expected = expected_numbers(60, frames)
    assert numbers(result.data) == expected
    np.testing.assert_allclose(result.timestamps, np.array(expected) / 25, atol=2e-3)


def test_a_last_packet_that_is_cut_off_is_no_frame(tmp_path, inside):
    path = write_video(tmp_path / "w.mp4", container_options={"movflags": "faststart"}, b_frames=0)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    cut = packets[40].pos + packets[40].size // 2
    (tmp_path / "v.mp4").write_bytes(path.read_bytes()[:cut])
    result = inside(frames=8)(tmp_path / "v.mp4")
    assert numbers(result.data) == expected_numbers(40, 8)
    assert result.duration == pytest.approx(1.6)


MATRICES = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_rotation_and_mirroring_by_metadata_are_applied(tmp_path, inside, matrix):
    path = write_video(tmp_path / "v.mp4", 4)
    plain = inside(frames=4)(path).data
    patch_display_matrix(path, matrix)
    turned = inside(frames=4)(path).data
    np.testing.assert_array_equal(turned, np.stack([MATRICES[matrix](f) for f in plain]))


def test_a_rotated_video_is_resized_upright(tmp_path, inside):
    path = write_video(tmp_path / "v.mp4", 4)
    patch_display_matrix(path, (0, 1, -1, 0))
    assert inside(size=(32, 64))(path).data.shape[1:] == (32, 64, 3)
    assert inside(size=48)(path).data.shape[1:] == (80, 48, 3)


def test_numbers_survive_resizing(videos, inside):
    for size, shape in [
        (48, (48, 80)),
        (384, (96, 160)),
        ((64, 200), (64, 200)),
        (None, (96, 160)),
    ]:
        data = inside(frames=6, size=size)(videos["mp4-gop12"]).data
        assert data.shape[1:3] == shape
        assert numbers(data) == expected_numbers(60, 6)


@pytest.mark.parametrize(
    ("space", "matrix", "offset"),
    [
        ("bt709", (1.5748, 0.1873, 0.4681, 1.8556), 16),
        ("smpte170m", (1.402, 0.3441, 0.7141, 1.772), 16),
    ],
)
def test_colours_follow_the_matrix_that_the_stream_names(tmp_path, inside, space, matrix, offset):
    """The reference is the standards' own formula, for a flat colour in limited range."""
    path = tmp_path / "v.mp4"
    luma, blue, red = 110, 160, 90
    with av.open(str(path), "w") as output:
        stream = output.add_stream(
            "libx264", rate=25, options={"qp": "0", "colorspace": space, "color_range": "tv"}
        )
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, (luma, blue, red), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    y, b, r = (luma - offset) / 219, (blue - 128) / 224, (red - 128) / 224
    rv, gu, gv, bu = matrix
    expected = np.array([y + rv * r, y - gu * b - gv * r, y + bu * b]) * 255
    found = inside(frames=1)(path).data.reshape(-1, 3)
    assert np.abs(found - expected).max() <= 2


def test_sequential_decoding_answers_where_seeking_fails(videos, inside, monkeypatch):
    from linkedout_lightning.video.source import VideoSource

    monkeypatch.setattr(VideoSource, "seek", lambda self, start: False)
    assert numbers(inside(frames=9)(videos["mp4-gop12"]).data) == expected_numbers(60, 9)


def test_a_seek_that_lands_too_late_is_noticed(videos, inside, monkeypatch):
    from linkedout_lightning.video.source import VideoSource

    honest = VideoSource.seek

    def late(self, start):
        return honest(self, start + 13 * 1024)

    monkeypatch.setattr(VideoSource, "seek", late)
    assert numbers(inside(frames=9)(videos["mp4-gop12"]).data) == expected_numbers(60, 9)
