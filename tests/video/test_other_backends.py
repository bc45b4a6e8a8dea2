"""decord and torchcodec against PyAV: the same frames, or PyAV's with the reason."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from barcodes import expected_numbers, numbers, patch_edit_list, write_video

from linkedout_lightning.video import FrameSampler

pytestmark = pytest.mark.timeout(300)

EXACT = {
    "h264": ("mp4", {}),
    "gop-250": ("mp4", {"gop": 250}),
    "mkv": ("mkv", {}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
    "variable-rate": ("mp4", {"times": [k * k * 3 + k for k in range(60)]}),
}
REFUSED = {
    "open-gop": ("mp4", {"options": {"x264-params": "open-gop=1:keyint=10"}}, "open GOP"),
    "avi": ("avi", {"codec": "mpeg4", "b_frames": 2}, "avi"),
    "mpeg-ts": ("ts", {}, "mpegts"),
    "bare": ("h264", {}, "no presentation times"),
    # After a seek in ASF decord shows frames of another group of pictures.
    "asf": ("asf", {"codec": "wmv2", "b_frames": 0}, "asf"),
    "10-bit": ("mp4", {"pixel_format": "yuv420p10le"}, "colours are not exact for yuv420p10le"),
}


@cache
def sampler(frames, backend="auto", size=None):
    """One worker process a sampler, not one a test."""
    return FrameSampler(frames, size, backend)


@pytest.fixture(scope="module", params=["decord", "torchcodec"])
def backend(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.mark.parametrize("kind", EXACT)
def test_plain_files_are_decoded_exactly(tmp_path, backend, kind):
    ending, options = EXACT[kind]
    path = write_video(tmp_path / f"v.{ending}", **options)
    result = sampler(12, backend)(path)
    reference = sampler(12)(path)
    assert (result.backend, result.fallback_reason) == (backend, None)
    assert numbers(result.data) == numbers(reference.data)
    np.testing.assert_array_equal(result.timestamps, reference.timestamps)
    small = sampler(3, backend, (32, 64))(path)
    assert small.data.shape == (3, 32, 64, 3)
    plain = sampler(3, size=(32, 64))(path).data
    assert np.abs(small.data.astype(int) - plain.astype(int)).mean() < 3


@pytest.mark.parametrize("kind", REFUSED)
def test_what_decord_gets_wrong_is_left_to_pyav(tmp_path, kind):
    pytest.importorskip("decord")
    ending, options, reason = REFUSED[kind]
    path = write_video(tmp_path / f"v.{ending}", **options)
    result = sampler(12, "decord")(path)
    assert numbers(result.data) == expected_numbers(60, 12)
    assert result.backend == "pyav"
    assert reason in result.fallback_reason


def test_an_edit_list_is_honoured_or_left_to_pyav(tmp_path, backend):
    path = write_video(tmp_path / "v.mp4")
    patch_edit_list(path, skip_ticks=7680, movie_ticks=1200)
    result = sampler(10, backend)(path)
    assert numbers(result.data) == [15 + k for k in expected_numbers(30, 10)]
    if result.backend != backend:
        assert "frames instead of" in result.fallback_reason
