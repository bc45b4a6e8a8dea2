"""Decoders that misbehave for real, for the worker process to survive."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import numpy as np

from linkedout_lightning.video import DecodeSettings, Frames

LEAKED: list[bytearray] = []


def _frames(settings: DecodeSettings, value: int = 7) -> Frames:
    return Frames(
        data=np.full((settings.frames, 4, 6, 3), value, np.uint8),
        timestamps=np.arange(settings.frames, dtype=np.float64),
        fps=1.0,
        duration=float(settings.frames),
        backend="own",
    )


def by_name(path: str, settings: DecodeSettings) -> Frames:
    """Do what the file's name says."""
    word = os.path.basename(path).split("-")[0]
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "wild":
        ctypes.string_at(0)
    if word == "hang":
        while True:
            time.sleep(1)
    if word == "deaf":
        # A native call that never returns: no Python signal handler could end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
        ctypes.CDLL(None).pause()
    if word == "exit":
        os._exit(3)
    if word == "raise":
        raise KeyError("odd\nmessage")
    if word == "memory":
        hoard = [bytearray(64 << 20) for _ in range(64)]
        return _frames(settings, len(hoard))
    if word == "noise":
        # Native libraries print where they like; the protocol must not be disturbed.
        os.write(1, b"noise " * 100)
        os.write(2, b"noise " * 100)
        print("noise", flush=True)
    if word == "slow":
        time.sleep(0.3)
    if word == "big":
        return Frames(**{**vars(_frames(settings)), "data": np.zeros((1, 5000, 5000, 3), np.uint8)})
    if word == "wide":
        data = np.zeros((settings.frames, 512, 512, 3), np.uint8)
        return Frames(**{**vars(_frames(settings)), "data": data})
    if word == "leak":
        LEAKED.append(bytearray(20 << 20))
        return _frames(settings)
    if word == "modules":
        return _frames(settings, int("torch" in sys.modules))
    if word == "pid":
        digits = np.array([os.getpid() // 256**k % 256 for k in range(4)], np.uint8)
        frames = _frames(settings)
        frames.data.reshape(-1)[:4] = digits
        return frames
    return _frames(settings)


def pid_of(frames: Frames) -> int:
    return sum(int(d) * 256**k for k, d in enumerate(frames.data.reshape(-1)[:4]))
