"""Flipped bytes: frames or a reason, whatever the decoder makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from barcodes import write_video

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodePool, Frames, FrameSampler

SEEDS = {
    "mp4": {},
    "mkv": {},
    "ts": {},
    "webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "avi": {"codec": "mpeg4"},
}


def _spoilt(folder, originals, count, rng):
    for index in range(count):
        original = originals[index % len(originals)]
        data = bytearray(original.read_bytes())
        # A few flips anywhere, many within the header, or a swapped block.
        flips = int(rng.integers(1, 60))
        reach = len(data) if index % 3 else min(len(data), 2000)
        for position in rng.integers(0, reach, flips).tolist():
            data[position] ^= int(rng.integers(1, 256))
        path = folder / f"{index}{original.suffix}"
        path.write_bytes(data)
        yield path


def _fuzz(folder, count, backend="auto"):
    originals = [write_video(folder / f"seed.{e}", 30, **o) for e, o in SEEDS.items()]
    rng = np.random.default_rng(0)
    sampler = FrameSampler(4, size=(32, 32), timeout_s=20, backend=backend)
    with DecodePool(sampler, workers=2) as pool:
        return list(pool.map(_spoilt(folder, originals, count, rng)))


def _check(outcomes):
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
def test_flipped_bytes(tmp_path):
    assert _check(_fuzz(tmp_path, 40)) > 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_flipped_bytes_at_length(tmp_path, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    _check(_fuzz(tmp_path, 2000, backend))
