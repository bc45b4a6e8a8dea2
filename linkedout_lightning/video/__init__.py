"""Frames from video files: exact in time, upright, and safe against what is in the files."""

from __future__ import annotations

from linkedout_lightning.video.files import IMAGE_SUFFIXES
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.pool import DecodePool
from linkedout_lightning.video.probe import VideoInfo, probe_video
from linkedout_lightning.video.sampler import FrameSampler
from linkedout_lightning.video.settings import DecodeSettings

__all__ = [
    "IMAGE_SUFFIXES",
    "DecodePool",
    "DecodeSettings",
    "FrameSampler",
    "Frames",
    "VideoInfo",
    "probe_video",
]
