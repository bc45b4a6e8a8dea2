"""The program of a decoding process: reads one request a line, answers in frames or a reason.

It imports numpy and a decoder, never torch (unless torchcodec is asked for), so that it is ready
in a fraction of a second and needs little memory. Its standard input and output carry the
protocol; whatever a native library prints goes nowhere.

An answer is a length (8 bytes, little endian), a JSON header of that length, and, if the header
gives a shape, the pixels. Nothing is pickled: a decoder that an evil video has taken over can
send wrong pixels but cannot make the caller run anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.backends import load
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings

LENGTH = struct.Struct("<Q")
# The caller ends a decode that takes too long; this is for a worker whose caller has died.
GRACE_SECONDS = 10.0


def main(memory_mb: int, preload: str) -> None:
    """Serve requests until the caller closes the pipe.

    Args:
        memory_mb: Memory that decoding may take on top of what the process maps at rest.
        preload: ``module:function`` to import before the first request, so that its time does not
            count as the first video's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    _prepare_process()
    known = {preload: _loaded(preload)}
    _limit_memory(memory_mb)
    at_rest = _mapped_bytes()
    _send(answers, {"ready": True})
    _silence()
    for line in requests:
        request = json.loads(line)
        name = request["function"]
        signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + GRACE_SECONDS)
        if name not in known:
            before = _mapped_bytes()
            _limit_memory(None)
            known[name] = _loaded(name)
            _limit_memory(memory_mb)
            at_rest += _mapped_bytes() - before
        header, frames = _answer(known[name], request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        # The limit is one of address space, which a leak eats up: the caller ends this process
        # before good videos are refused memory.
        result = frames.data.nbytes if frames is not None else 0
        header["kept_mb"] = (_mapped_bytes() - at_rest - result) / 2**20
        # The caller may take its time to read: nothing limits how long a finished result waits.
        _send(answers, header, frames)


def _loaded(name: str) -> Any:
    try:
        return load(name)
    except Exception as error:
        return error


def _answer(function: Any, request: dict[str, Any]) -> tuple[dict[str, Any], Frames | None]:
    if isinstance(function, Exception):
        return {"error": f"the decoder cannot be loaded: {_brief(function)}"}, None
    try:
        result = function(request["path"], DecodeSettings(**request["settings"]))
    except VideoDecodeError as error:
        return {"error": error.reason}, None
    except MemoryError:
        return {"error": "out of memory within the limit for one decoder"}, None
    except Exception as error:
        # Whatever a hostile file provokes must cost this file only.
        return {"error": f"decoder failed: {_brief(error)}"}, None
    if not isinstance(result, Frames):
        return {"result": dataclasses.asdict(result)}, None
    header = {
        "shape": result.data.shape,
        "timestamps": result.timestamps.tolist(),
        "fps": result.fps,
        "duration": result.duration,
        "backend": result.backend,
    }
    return header, result


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _send(answers: Any, header: dict[str, Any], frames: Frames | None = None) -> None:
    text = json.dumps(header).encode()
    _write(answers, LENGTH.pack(len(text)) + text)
    if frames is not None:
        _write(answers, frames.data.reshape(-1).data)


def _write(answers: BinaryIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[answers.write(view) :]


def _prepare_process() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the machine runs out of memory, a decoder should go before the job that it serves.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def _silence() -> None:
    # Start-up errors have been seen by now; native libraries report each broken packet here.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)


def _limit_memory(megabytes: int | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard
    if megabytes is not None:
        soft = _mapped_bytes() + megabytes * 2**20
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
    # Not every system enforces or even accepts the limit (macOS); the time limit still holds.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**30
