"""Connections that do not wait for clients who dawdle.

uvicorn closes idle connections, but it waits for ever for the rest of a request's head and for a
client that does not read its answer, and httptools takes a head of any size. Here each has an end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD = 64 * 1024


def guarded_protocol(*, head_timeout: float, stall_timeout: float) -> type[HttpToolsProtocol]:
    """A protocol for ``uvicorn.Config(http=...)``.

    Args:
        head_timeout: Seconds from a connection's start, or a request's first byte, to its last
            header.
        stall_timeout: Seconds that a client may leave an answer unread.
    """

    class GuardedProtocol(HttpToolsProtocol):
        """One connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._waiting: asyncio.TimerHandle | None = None
            self._stalled: asyncio.TimerHandle | None = None
            self._head = 0
            self._in_head = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            between = self.cycle is None or self.cycle.response_complete
            if between and self._waiting is None:
                self._wait()
            self._head += len(data)
            super().data_received(data)
            if self._waiting is not None and self._head > _MAX_HEAD:
                self._refuse(b"431 Request Header Fields Too Large", b"the head is above 64 KiB")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True

        def on_headers_complete(self) -> None:
            self._came()
            self._head, self._in_head = 0, False
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            self._read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalled is None:
                self._stalled = self.loop.call_later(stall_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            self._read()
            super().resume_writing()

        def _wait(self) -> None:
            self._head = 0
            self._waiting = self.loop.call_later(head_timeout, self._too_slow)

        def _came(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _read(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _too_slow(self) -> None:
            self._waiting = None
            if self._in_head:
                self._refuse(b"408 Request Timeout", b"the head did not come in time")
            elif not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, status: bytes, reason: bytes) -> None:
            if self.transport.is_closing():
                return
            body = b'{"detail": "' + reason + b'", "errors": []}'
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: "
                + str(len(body)).encode() + b"\r\nconnection: close\r\n\r\n" + body
            )  # fmt: skip
            self.transport.close()

    return GuardedProtocol
