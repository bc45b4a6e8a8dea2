"""`linkedout serve`."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linkedout_lightning.errors import ConfigError, MissingExtraError
from linkedout_lightning.serving.server.config import ServeConfig, named_bundles, read_token

if TYPE_CHECKING:
    import uvicorn

    from linkedout_lightning.serving.ranker import Ranker

_BACKLOG = 2048


@dataclass(frozen=True)
class ServeReport:
    """A server that has ended.

    Args:
        address: Where it listened.
        requests: How many it answered.
    """

    address: str
    requests: int

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return {"address": self.address, "requests": self.requests}

    def summary(self) -> str:
        """The report for people."""
        return f"==> stopped after {self.requests:,} requests"


def serve(config: ServeConfig, *, progress: bool = True) -> ServeReport:
    """Serve until SIGTERM or Ctrl+C; open requests are answered before it returns.

    Args:
        config: What, where, and within which limits.
        progress: Say what goes on.

    Raises:
        BundleError: A bundle cannot be loaded.
        ConfigError: The token or the port cannot be used.
        MissingExtraError: The packages of the extra ``serve`` are missing.
    """
    try:
        import uvicorn

        from linkedout_lightning.serving.server.app import create_app
        from linkedout_lightning.serving.server.protocol import guarded_protocol
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "linkedout serve") from error
    import torch

    from linkedout_lightning.serving.ranker import Ranker

    token = read_token(config)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with _listening(config.host, config.port) as (listener, address):
        rankers = {}
        for name, folder in named_bundles(config.bundle).items():
            rankers[name] = Ranker.load(folder, config.index, dtype=config.dtype)
            _say(progress, f"{name}: {len(rankers[name]):,} items of {folder}")
            _warm_up(rankers[name])
        app = create_app(rankers, config, token=token)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("linkedout.serve").setLevel(logging.INFO if progress else logging.WARNING)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=guarded_protocol(
                    head_timeout=config.receive_timeout, stall_timeout=config.receive_timeout
                ),
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                limit_concurrency=config.connections,
                timeout_graceful_shutdown=max(1, round(config.shutdown_timeout)),
            )
        )
        changes = "with the token" if token is not None else "not at all, as there is no token"
        _say(progress, f"items can be changed {changes}")
        listener.listen(_BACKLOG)  # whoever reads the address may connect, and waits a moment
        # Whoever reads standard output as JSON still wants to know where a free port is.
        print(
            f"==> serving at {address} (the page; {address}/docs lists the routes)",
            file=sys.stdout if progress else sys.stderr,
            flush=True,
        )
        _settle()
        with _ended_by_signals(server):
            server.run(sockets=[listener])
    return ServeReport(address, server.server_state.total_requests)


@contextmanager
def _listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket that listens, and its address; before a bundle is loaded for nothing."""
    try:
        family, kind, number, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except OSError as error:
        raise ConfigError(f"`host` is {host!r}: {error.strerror}") from None
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"`port` {port} of {host!r} cannot be listened on: {error.strerror}; give another"
        ) from None
    with listener:
        bound = listener.getsockname()
        name = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
        yield listener, f"http://{name}:{bound[1]}"


def _warm_up(ranker: Ranker) -> None:
    """Ask a model once, so that the first request does not wait for what torch does but once."""
    item = next(iter(ranker.item_ids))
    for together in (1, 8):
        ranker.recommend([[item]] * together, 1)
    ranker.similar([item], 1)


def _settle() -> None:
    """Keep Python from stopping all requests at once.

    torch and its like leave a million objects behind, through which the collector would go time
    and again: half a second in which nobody is answered. They are for ever, so it may pass over
    them. And the model's thread gives way to new requests after 1 ms in place of 5.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(0.001)


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and Ctrl+C end a server, and nothing else.

    uvicorn takes them only once it has started, and raises them again once they have ended it.
    """

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(progress: bool, line: str) -> None:
    if progress:
        print(f"==> {line}", flush=True)
