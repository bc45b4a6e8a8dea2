from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from barcodes import expected_by_times
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.video.settings import DecodeSettings
from linkedout_lightning.video.timeline import make_timeline


@given(
    gaps=st.lists(st.integers(1, 5000), min_size=0, max_size=40),
    first=st.integers(-(10**6), 10**12),
    last=st.integers(1, 5000),
    frames=st.integers(1, 40),
)
@settings(deadline=None, max_examples=200)
def test_shown_frames_equal_a_walk_through_all_times(gaps, first, last, frames):
    starts = np.cumsum([first, *gaps]).tolist()
    timeline = make_timeline(
        starts[::-1], [first], last_duration=last, time_base=Fraction(1, 90000), guessed_fps=None
    )
    shown = timeline.shown_uniformly(frames)
    assert shown.tolist() == expected_by_times(starts, starts[-1] + last, frames)
    assert np.isclose(timeline.duration, (starts[-1] + last - first) / 90000)


def test_an_instant_on_a_border_takes_the_frame_that_begins():
    timeline = make_timeline(
        list(range(16)), [0], last_duration=1, time_base=Fraction(1, 3), guessed_fps=None
    )
    assert timeline.shown_uniformly(8).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]


@pytest.mark.parametrize(
    ("starts", "guessed", "fps"),
    [([7], Fraction(30), 30.0), ([7], None, 25.0), ([0, 10, 20], None, 100.0)],
)
def test_a_missing_last_duration_is_guessed(starts, guessed, fps):
    timeline = make_timeline(
        starts, starts[:1], last_duration=0, time_base=Fraction(1, 1000), guessed_fps=guessed
    )
    assert timeline.fps == pytest.approx(fps, rel=0.02)


@pytest.mark.parametrize(
    ("size", "source", "target"),
    [
        (None, (720, 1280), (720, 1280)),
        (360, (720, 1280), (360, 640)),
        (360, (1280, 720), (640, 360)),
        (360, (360, 640), (360, 640)),
        (100, (50, 50), (50, 50)),
        (100, (99, 3000), (99, 3000)),
        (100, (101, 3000), (100, 2970)),
        ((100, 100), (50, 50), (100, 100)),
        ([10, 20], (720, 1280), (10, 20)),
    ],
)
def test_target_size(size, source, target):
    assert DecodeSettings(size=size).target_size(*source) == target


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"frames": 2.5},
        {"frames": True},
        {"size": 0},
        {"size": (1, 2, 3)},
        {"size": (1, -2)},
        {"size": "big"},
        {"max_pixels": 0},
    ],
)
def test_unusable_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DecodeSettings(**wrong)
