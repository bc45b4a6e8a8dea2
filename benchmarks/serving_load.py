"""A running server, and clients that load it, for :mod:`serving`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TOKEN = "the-token-of-a-benchmark"


class Server:
    """`linkedout serve` in a process of its own; a context that ends it."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "linkedout_lightning.cli", "serve", *self._arguments]
        self._process = subprocess.Popen(
            [*command, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LINKEDOUT_TOKEN": TOKEN},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"serving at http://\S+:(\d+)", line):
                self.port = int(found[1])
                return self
        raise SystemExit("the server ended at once")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=120)

    @property
    def memory_mb(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


class Client:
    """One connection that is kept open; as little work as HTTP allows, as the cores are shared."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self._streams is not None:
            try:
                return await self._exchange(request(method, path, body))
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                if getattr(error, "partial", b""):
                    raise
                self.close()  # the server ends connections that are idle for long
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return await self._exchange(request(method, path, body))

    async def _exchange(self, sent: bytes) -> tuple[int, bytes]:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None, head
        return int(head[9:12]), await reader.readexactly(int(length[1]))

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


def request(method: str, path: str, body: Any = None) -> bytes:
    """A request as it goes over the wire."""
    data = b"" if body is None else json.dumps(body).encode()
    return (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TOKEN}\r\ncontent-length: {len(data)}\r\n\r\n"
    ).encode() + data


async def at_a_rate(
    port: int, histories: Sequence[Sequence[str]], *, rate: float, seconds: float
) -> list[float]:
    """Ask at fixed instants, whatever the answers take; times from those instants, in ms.

    A client that waits for an answer before it asks again would hide how long the others wait.
    """
    free: list[Client] = []
    times: list[float] = []

    async def once(number: int, due: float) -> None:
        client = free.pop() if free else Client(port)
        body = {"history": histories[number % len(histories)], "k": 10}
        status, _ = await client.ask("POST", "/recommend", body)
        assert status == 200, status
        times.append(1e3 * (time.perf_counter() - due))
        free.append(client)

    start, tasks = time.perf_counter() + 0.05, []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(once(number, due)))
    await asyncio.gather(*tasks)
    for client in free:
        client.close()
    return times


@dataclass(frozen=True)
class Seen:
    """One answer: which history, when it was asked and when answered, and what it was."""

    place: int
    asked: float
    answered: float
    status: int
    body: bytes


async def all_at_once(
    port: int,
    histories: Sequence[Sequence[str]],
    *,
    clients: int,
    seconds: float,
    k: int = 10,
    seen: Callable[[Seen], object] | None = None,
) -> tuple[list[float], float]:
    """Clients that each ask again as soon as they are answered.

    Returns:
        Times in ms, and requests a second.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one(first: int) -> None:
        client, place = Client(port), first
        while (asked := time.perf_counter()) < end:
            place = (place + clients) % len(histories)
            body = {"history": histories[place], "k": k}
            status, answer = await client.ask("POST", "/recommend", body)
            answered = time.perf_counter()
            times.append(1e3 * (answered - asked))
            if seen is not None:
                seen(Seen(place, asked, answered, status, answer))
            else:
                assert status == 200, answer
        client.close()

    start = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    return times, len(times) / (time.perf_counter() - start)


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        "p50_ms": round(ordered[last // 2], 3),
        "p99_ms": round(ordered[min(last, int(0.99 * len(ordered)))], 3),
        "max_ms": round(ordered[-1], 3),
        "requests": len(ordered),
    }
