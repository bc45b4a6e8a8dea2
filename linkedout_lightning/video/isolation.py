"""A decoding process as its caller sees it: ask, wait at most so long, survive its death."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from linkedout_lightning.errors import LinkedOutError, VideoDecodeError
from linkedout_lightning.video.backends import BACKENDS, Backend
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings
from linkedout_lightning.video.worker import LENGTH

# Importing torch for torchcodec takes half a minute on a busy machine.
START_SECONDS = 300.0
# Native decoders have leaked memory (decord's issues 157, 208, 323): begin afresh now and then.
VIDEOS_A_PROCESS = 1000
# What a process keeps of its memory limit after a video, as a share, is lost to later videos.
LEAK_SHARE = 0.25
MAX_HEADER_BYTES = 1 << 26
PIPE_BYTES = 1 << 20
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from linkedout_lightning.video.worker import main; main(int(sys.argv[2]), sys.argv[3])"
)


Admit = Callable[[int], None]
"""Called with the size of a result in bytes before it is taken in; may wait for room."""


class _NoAnswerError(Exception):
    """The process ended before it answered, or its answer makes no sense (then it says why)."""


class DecoderProcess:
    """One worker process, started when first needed and again after each death.

    It is a plain child program rather than a ``multiprocessing`` process: it does not import the
    caller's main module, needs no ``if __name__ == "__main__"`` there, and may be used from a
    ``DataLoader``'s daemonic workers. Calls from several threads wait for each other.

    Args:
        timeout_s: Seconds that one video may take.
        memory_mb: Memory in MiB that decoding one video may take.
    """

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Any = None
        self._served = 0
        self._leaks = False
        self.owner = os.getpid()
        self.starts = 0
        """How many processes were started so far."""

    @property
    def pid(self) -> int | None:
        """Id of the process, if one was started and has not been ended."""
        return None if self._process is None else self._process.pid

    def decode(
        self,
        path: str,
        backend: Backend,
        settings: DecodeSettings,
        *,
        admit: Admit | None = None,
    ) -> Frames:
        """Decode a video, with the backend's fallback if it fails, hangs or crashes.

        Args:
            path: The file.
            backend: What decodes it.
            settings: What is wanted of it.
            admit: Waits until the caller has room for so many bytes; the wait does not count as
                decoding.

        Raises:
            VideoDecodeError: If no frames were made, with the reason.
        """
        try:
            return self._frames(path, backend, settings, admit)
        except VideoDecodeError as error:
            if backend.fallback is None:
                raise
            frames = self._frames(path, BACKENDS[backend.fallback], settings, admit)
            return dataclasses.replace(frames, fallback_reason=f"{backend.name}: {error.reason}")

    def call(self, path: str, function: str, settings: DecodeSettings) -> dict[str, Any]:
        """Run ``module:function`` on a file; it returns a dataclass, which comes back as a dict.

        Raises:
            VideoDecodeError: If it raised that, hung or crashed.
        """
        header, _ = self._request(path, function, settings, None)
        result: dict[str, Any] = header["result"]
        return result

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._end is not None:
            self._end()

    def interrupt(self) -> None:
        """End a call that another thread waits in; that thread gets a ``VideoDecodeError``."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _frames(
        self, path: str, backend: Backend, settings: DecodeSettings, admit: Admit | None
    ) -> Frames:
        header, data = self._request(path, backend.function, settings, admit)
        return Frames(
            data=data,
            timestamps=np.asarray(header["timestamps"], dtype=np.float64),
            fps=header["fps"],
            duration=header["duration"],
            backend=header["backend"],
        )

    def _request(
        self, path: str, function: str, settings: DecodeSettings, admit: Admit | None
    ) -> tuple[dict[str, Any], Any]:
        with self._lock:
            process = self._running(function)
            deadline = time.monotonic() + self._timeout_s
            request = {
                # The worker may have been started in another folder.
                "path": path if os.path.isabs(path) else os.path.join(os.getcwd(), path),
                "function": function,
                "settings": dataclasses.asdict(settings),
                "timeout_s": self._timeout_s,
            }
            try:
                _write_line(process, json.dumps(request))
                header, data = _read_answer(process, deadline, settings, admit)
                self._leaks = header.get("kept_mb", 0) > LEAK_SHARE * self._memory_mb
            except _NoAnswerError as error:
                # Its pipe closes a moment before its exit status can be read.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0 if error.args else 1)
                self.close()
                reason = error.args[0] if error.args else _how_it_ended(process)
                raise VideoDecodeError(path, reason) from None
            except TimeoutError:
                self.close()
                reason = f"decoding took longer than {self._timeout_s:g} s and was ended"
                raise VideoDecodeError(path, reason) from None
            except BaseException:
                # An interrupted caller leaves an answer in the pipe that belongs to no request.
                self.close()
                raise
        if "error" in header:
            raise VideoDecodeError(path, header["error"])
        return header, data

    def _running(self, function: str) -> subprocess.Popen[bytes]:
        self._served += 1
        if self._leaks or self._served > VIDEOS_A_PROCESS:
            self.close()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _start(self._memory_mb, function)
            self._end = weakref.finalize(self, _kill, self._process, os.getpid())
            self._served, self._leaks = 1, False
            self.starts += 1
            try:
                _read_answer(self._process, time.monotonic() + START_SECONDS, None)
            except (_NoAnswerError, TimeoutError):
                self.close()
                raise LinkedOutError(
                    f"a decoding process of {sys.executable} cannot start; its own message is on "
                    "the standard error output"
                ) from None
        return self._process


def _start(memory_mb: int, function: str) -> subprocess.Popen[bytes]:
    # Libraries that would start a thread a core only take address space from the decoder.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    search_path = json.dumps([str(entry) for entry in sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, search_path, str(memory_mb), function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **threads},
    )
    # A larger pipe wakes both ends less often; a user's pages for pipes may be used up, though.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]
    return process


def _kill(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the caller: the process is not ours to end
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    # A process stuck in a dead network folder cannot be killed; do not wait for it for ever.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)


def _write_line(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text.encode() + b"\n")
    except OSError:
        raise _NoAnswerError from None


def _read_answer(
    process: subprocess.Popen[bytes],
    deadline: float,
    settings: DecodeSettings | None,
    admit: Admit | None = None,
) -> tuple[dict[str, Any], Any]:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    length = bytearray(LENGTH.size)
    _read_into(descriptor, memoryview(length), deadline)
    (size,) = LENGTH.unpack(length)
    if size > MAX_HEADER_BYTES:
        raise _NoAnswerError("decoder gave an answer that makes no sense")
    text = bytearray(size)
    _read_into(descriptor, memoryview(text), deadline)
    header = json.loads(text)
    if "shape" not in header or settings is None:
        return header, None
    shape = tuple(header["shape"])
    count, height, width, channels = shape if len(shape) == 4 else (0, 0, 0, 0)
    if not 0 < height * width <= settings.max_pixels or (count, channels) != (settings.frames, 3):
        raise _NoAnswerError(f"decoder gave an array of shape {shape}")
    if admit is not None:
        begun = time.monotonic()
        admit(count * height * width * channels)
        deadline += time.monotonic() - begun
    data = np.empty(shape, dtype=np.uint8)
    _read_into(descriptor, data.reshape(-1).data, deadline)
    return header, data


def _read_into(descriptor: int, view: memoryview, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while view:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise TimeoutError
        count = os.readv(descriptor, [view])
        if not count:
            raise _NoAnswerError
        view = view[count:]


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is None or code >= 0:
        return f"decoder ended without an answer (exit code {code})"
    name = signal.Signals(-code).name
    return f"decoder crashed ({name})"
