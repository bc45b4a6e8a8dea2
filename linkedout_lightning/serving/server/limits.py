"""Limits that hold before a request is understood: its size, its slowness, and how many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linkedout_lightning.serving.server.problems import problem

_MB = 1_000_000


class BodyLimit:
    """Reads a request's body before the application sees it: within a size, and within a time.

    So a client that sends slowly holds a connection and nothing else. A body that is too large is
    refused by its declared length, or once too much has come; the rest of it is passed over.

    Args:
        app: What is behind.
        limit: Most bytes for a request.
        seconds: Time for the whole body.
        together: Most bytes of all bodies that are held at a time.
    """

    def __init__(
        self, app: ASGIApp, *, limit: Callable[[Scope], int], seconds: float, together: int
    ) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds
        self._together, self._held = together, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, declared = self._limit(scope), _declared(scope)
        if declared is not None and declared > limit:
            await self._refuse(_too_large(limit), scope, receive, send)
            return
        body = bytearray()
        try:
            refusal, comes_more = await self._read(body, limit, receive)
            if refusal is None:
                await self._app(scope, _replay(bytes(body), receive), send)
            elif comes_more:
                await self._refuse(refusal, scope, receive, send)
            else:
                await refusal(scope, receive, send)
        finally:
            self._held -= len(body)

    async def _refuse(self, refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, and pass over what the client still sends, so that it gets to read why.

        To close the connection at once would reset it, and the client would lose the answer.
        """
        last: Message | None = None

        async def held_back(message: Message) -> None:
            nonlocal last
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                last = {"type": "http.response.body", "body": b"", "more_body": False}
            else:
                await send(message)

        await refusal(scope, receive, held_back)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                message = await receive()
                while message["type"] == "http.request" and message.get("more_body", False):
                    message = await receive()
        if last is not None:
            await send(last)

    async def _read(
        self, body: bytearray, limit: int, receive: Receive
    ) -> tuple[ASGIApp | None, bool]:
        """Fill ``body``; what to answer if that cannot be done, and whether more of it comes."""
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _nothing, False  # the client has gone
                    part = message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) + len(part) > limit:
                        return _too_large(limit), more
                    if self._held + len(part) > self._together:
                        return busy(), more
                    body += part
                    self._held += len(part)
        except TimeoutError:
            reason = f"the body did not come within {self._seconds:g} s"
            return problem(408, reason, headers={"connection": "close"}), False
        return None, False


class ConcurrencyLimit:
    """Answers 503 at once where too many requests wait already, rather than all of them late.

    Args:
        app: What is behind.
        most: Most requests at a time.
        free: Starts of paths that are always let through.
    """

    def __init__(self, app: ASGIApp, *, most: int, free: tuple[str, ...]) -> None:
        self._app, self._most, self._free, self._now = app, most, free, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"].startswith(self._free):
            await self._app(scope, receive, send)
            return
        if self._now >= self._most:
            await busy()(scope, receive, send)
            return
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


def busy() -> ASGIApp:
    """The answer of a server that has too much to do."""
    headers: Mapping[str, str] = {"retry-after": "1"}
    return problem(503, "too many requests are waiting; come again", headers=headers)


def _too_large(limit: int) -> ASGIApp:
    return problem(
        413, f"the body is above {limit / _MB:g} MB, which is the most that is taken here"
    )


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


def _declared(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body in one piece, then what the client does."""
    first = True

    async def replayed() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
