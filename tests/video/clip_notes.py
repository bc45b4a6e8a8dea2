"""Why some clips differ from what the ``ffmpeg`` program shows; seen by looking at each one."""

from __future__ import annotations

NOTES = {
    "8k.mp4": (
        "decord hands out RGB at full size, which is shrunk afterwards; ffmpeg and PyAV shrink the "
        "stored planes and convert in the same step, so edges of colour differ"
    ),
    "declares-1000000.mov": "the five frames that are there",
    "wide.gif": "eight frames of 64 megapixels do not fit the limit of memory",
}
