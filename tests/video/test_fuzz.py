"""Damaged videos: frames or a reason, whatever the decoder makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from mutations import spoilt_videos, write_seeds

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodePool, Frames, FrameSampler


def _check_all(folder, count, backend="auto"):
    sampler = FrameSampler(4, size=(32, 32), timeout_s=20, backend=backend)
    spoilt = spoilt_videos(write_seeds(folder), folder, count, rng=np.random.default_rng(0))
    with DecodePool(sampler, workers=2) as pool:
        outcomes = list(pool.map(spoilt))
    for outcome in outcomes:
        assert isinstance(outcome, Frames | VideoDecodeError)
        if isinstance(outcome, Frames):
            assert outcome.data.shape == (4, 32, 32, 3)
            assert np.isfinite([*outcome.timestamps, outcome.fps, outcome.duration]).all()
        else:
            assert outcome.reason
            assert "decoder failed" not in outcome.reason, outcome.reason
    return sum(isinstance(outcome, Frames) for outcome in outcomes)


@pytest.mark.timeout(120)
def test_spoilt_videos_give_frames_or_a_reason(tmp_path):
    assert _check_all(tmp_path, 48) > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_spoilt_videos_at_length(tmp_path, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    _check_all(tmp_path, 2000, backend)
