"""What `linkedout serve` is told."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from linkedout_lightning.errors import ConfigError

TOKEN_VARIABLE = "LINKEDOUT_TOKEN"
_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]*)=(.+)", re.DOTALL)
_SHORTEST_TOKEN = 16
_FROM_ONE = (
    "max_k", "max_history", "max_list", "max_added", "batch", "concurrency", "connections"
)  # fmt: skip
_ABOVE_ZERO = (
    "max_body_mb", "max_items_body_mb", "receive_timeout", "request_timeout", "video_timeout",
    "shutdown_timeout",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Answer over HTTP from one bundle or several.

    Args:
        bundle: Folder of a bundle, or name=folder; several for several models, of which the first
            answers where a request names none.
        host: Address to listen on. The default is reached from this machine alone; whoever reaches
            another one may ask for recommendations, so put a proxy with TLS and access rules there.
        port: Port to listen on; 0 takes a free one and prints it.
        token_file: File that holds the token, at least 16 characters, without which nothing can be
            changed. In its place the environment variable LINKEDOUT_TOKEN may hold the token.
            Without either, no request changes anything.
        media: Folder of the items' clips, named by the items' ids, shown on the page.
        videos: Folder whose videos may be added as items; by default none may.
        bundles: Folder whose bundles may be swapped in; by default the one that holds the first
            bundle.
        index: exact, or the indexes of faiss: flat (the same answers) and ivf (approximate).
        dtype: Item vectors in memory; by default as in the bundle.
        model: Folder or hub name of the video LLM for new videos, where the bundle does not tell.
        device: Where the video LLM runs: cpu, cuda, auto.
        threads: CPU threads of torch; by default what torch takes.
        max_k: Largest k of a request.
        max_history: Longest history of a request.
        max_list: Most candidates, and most denied items, of a request.
        max_added: Most items that one request adds.
        max_body_mb: Largest body of a request, in MB.
        max_items_body_mb: The same for /items with the right token.
        batch: Most requests that are answered in one pass of the model.
        concurrency: Most requests that wait for the model; others get a 503 and may come again.
        connections: Most open connections.
        receive_timeout: Seconds within which a request's head must have come, and its body.
        request_timeout: Seconds that a request waits for an answer.
        video_timeout: The same for adding videos.
        shutdown_timeout: Seconds in which open requests are answered once the server is to end.
    """

    bundle: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = None
    media: str | None = None
    videos: str | None = None
    bundles: str | None = None
    index: Literal["exact", "flat", "ivf"] = "exact"
    dtype: Literal["float32", "float16", "int8"] | None = None
    model: str | None = None
    device: str = "auto"
    threads: int | None = None
    max_k: int = 1000
    max_history: int = 1000
    max_list: int = 10_000
    max_added: int = 1000
    max_body_mb: float = 1.0
    max_items_body_mb: float = 32.0
    batch: int = 64
    concurrency: int = 256
    connections: int = 1024
    receive_timeout: float = 10.0
    request_timeout: float = 10.0
    video_timeout: float = 600.0
    shutdown_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not self.bundle:
            raise ConfigError("`bundle` is empty; name a folder that `linkedout export` wrote")
        named_bundles(self.bundle)
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"`port` is {self.port}; give one from 0 to 65535")
        known = {field.name for field in fields(self)}
        for names, least, words in (
            (_FROM_ONE, 1, "a whole number from 1"),
            (_ABOVE_ZERO, 1e-9, "a number above 0"),
        ):
            assert known.issuperset(names)
            for name in names:
                if not getattr(self, name) >= least:
                    raise ConfigError(f"`{name}` is {getattr(self, name)}; give {words}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"`threads` is {self.threads}; give a whole number from 1")
        for name in ("media", "videos", "bundles"):
            folder = getattr(self, name)
            if folder is not None and not Path(folder).is_dir():
                raise ConfigError(f"`{name}` is {folder!r}, where no folder is")


def named_bundles(values: tuple[str, ...]) -> dict[str, str]:
    """Folders by name; the name of one that has none is its folder's.

    Raises:
        ConfigError: A name is there twice.

    Example:
        >>> named_bundles(("linkedout=runs/a", "runs/id-bundle"))
        {'linkedout': 'runs/a', 'id-bundle': 'runs/id-bundle'}
    """
    found: dict[str, str] = {}
    for value in values:
        named = _NAMED.fullmatch(value)
        name, folder = (named[1], named[2]) if named else (Path(value).resolve().name, value)
        if name in found:
            raise ConfigError(
                f"`bundle` has {name!r} twice, {found[name]!r} and {folder!r}; give each its own "
                "name, as in name=folder"
            )
        found[name] = folder
    return found


def read_token(config: ServeConfig) -> str | None:
    """The token that changes need; None where there is none, so that nothing can be changed.

    Raises:
        ConfigError: It cannot be read, is short, or holds what no header can carry.
    """
    token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if config.token_file is not None:
        where = repr(config.token_file)
        try:
            token = Path(config.token_file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise ConfigError(f"`token_file` {where} cannot be read: {reason}") from None
    if token is None:
        return None
    token = token.strip()
    if len(token) < _SHORTEST_TOKEN or not all(33 <= ord(letter) <= 126 for letter in token):
        raise ConfigError(
            f"the token in {where} has {len(token)} characters; give at least {_SHORTEST_TOKEN} "
            "visible ASCII ones without spaces, such as `openssl rand -hex 32` makes"
        )
    return token
